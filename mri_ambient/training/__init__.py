"""From prepared scans to a prior: configuration, scans, run folder, checks, loop, validation.

Public: :class:`TrainConfig` (options), :class:`TrainJob` and :class:`Hooks` (one call) and
:class:`Progress` in ``config``; :func:`plan` in ``preflight`` and :func:`dry_run` in ``dry_run``;
:func:`train` and :func:`run_training` in ``loop``; :class:`RunFolder` in ``run``; :class:`RefitJob`
and :func:`refit` in ``refit``; :class:`AdaptConfig` in ``adapt``, :func:`adapt` in ``adapt_scans``
and :func:`adapt_for_folder` in ``adapt_folder``.
"""
