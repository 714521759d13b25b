"""What the computation runs on: files, options, devices, processes, and reading ahead.

Public names: :mod:`.files` (``atomic_path``, ``make_folder``, ``require_space``, ``file_sha256``,
``json_text``, ``write_json``), :mod:`.config` (``from_options``, ``to_toml``, ``write_toml``),
:mod:`.device`, :mod:`.process_group` (``ProcessGroup``), :mod:`.prefetch` (``one_ahead``,
``BatchReader``).
"""
