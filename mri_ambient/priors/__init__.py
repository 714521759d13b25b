"""Trained denoisers: networks, noise levels, the Prior record and its file.

Public: ``Prior``, ``PriorFacts``, ``DenoiserSource`` (prior); ``load_prior``, ``save_prior``
(checkpoint); ``DENOISERS`` (denoisers); ``UNet``, ``UNetSpec``, ``NETWORKS`` (unet); ``LogNormal``,
``rho_schedule`` (schedules).
"""
