"""What the computation runs on: files, options, devices, processes, warnings, and reading ahead.

Public: ``Runtime``, ``pick_device``, ``describe_device``, ``device_error``, ``device_errors``
(device); ``Executor``, ``Processes``, ``executor_of``, ``completed``, ``run_one`` (executor);
``cluster`` (cluster); ``atomic_path``, ``make_folder``, ``require_space``, ``file_sha256``,
``json_text``, ``as_json``, ``write_json`` (files); ``from_options``, ``parse_seconds``,
``parse_until``, ``to_toml``, ``write_toml`` (config); ``ProcessGroup`` (process_group);
``WarningLog`` (warning_log); ``prefetch``, ``in_order``, ``BatchReader`` (prefetch);
``keep_freed_memory`` (memory).
"""
