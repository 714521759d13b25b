"""How an image becomes k-space and back: transforms, operators, masks, coils, units.

Public: ``fft2c``, ``ifft2c``, ``fftc``, ``ifftc``, ``center_crop``, ``image_crop``, ``center_pad``,
``reverse``, ``decentre`` (fourier); ``LinearOperator``, ``SenseOp`` (operators);
``conjugate_gradient`` (solve); ``MaskSpec``, ``MASKS`` and functions that measure and subsample
masks (masks); ``variable_density_disc`` (poisson); ``coverage``, ``sampling_densities``,
``MaskFacts``, ``Coverage`` (coverage); ``pack_maps``, ``unpack_maps`` (coil_maps); ``rss_weight``
(units); ``shrink_wavelets`` (wavelets).
"""
