"""Trained denoisers: networks, noise levels, the Prior record and its file.

Public: ``Prior``, ``DenoiserSource`` (prior); ``PriorFacts``, ``UNetSpec`` (facts);
``describe_prior`` (prior_file), ``load_prior``, ``save_prior`` (checkpoint); ``DENOISERS``
(denoisers); ``UNet``, ``NETWORKS`` (unet); ``LogNormal``, ``rho_schedule`` (schedules).
"""
