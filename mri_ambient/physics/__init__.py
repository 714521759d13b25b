"""How an image becomes k-space and back: transforms, operators, masks, coils, units.

Public: ``fft2c``, ``ifft2c``, ``reverse``, ``decentre`` (fourier); ``fftc``, ``ifftc``,
``half_field_phase`` (axis_fourier); ``center_crop``, ``image_crop``, ``center_pad``, ``center_fit``
(crop); ``LinearOperator``, ``SenseOp`` (operators); ``conjugate_gradient`` (solve); ``MaskSpec``
(mask_spec), ``MASKS`` and functions that subsample masks (masks), functions that measure them
(patterns); ``variable_density_disc`` (poisson); ``coverage``, ``sampling_densities``,
``MaskFacts``, ``Coverage`` (coverage); ``pack_maps``, ``unpack_maps`` (coil_maps); ``rss_weight``
(units); ``shrink_wavelets`` (wavelets).
"""
