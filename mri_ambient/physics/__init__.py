"""How an image becomes k-space and back: transforms, operators, masks, coils, units.

Public names: :mod:`.fourier` (``fft2c``, ``ifft2c``, ``fftc``, ``ifftc``, ``center_crop``,
``image_crop``, ``center_pad``, ``reverse``, ``decentre``), :mod:`.operators` (``LinearOperator``,
``SenseOp``), :mod:`.solve` (``conjugate_gradient``), :mod:`.masks` (``MaskSpec``, ``MASKS`` and the
functions that measure and subsample masks), :mod:`.poisson` (``poisson_disc``,
``variable_density_disc``), :mod:`.coverage` (``coverage``, ``Coverage``, ``MaskFacts``,
``sampling_densities``, ``null_space_fraction``), :mod:`.coil_maps` (``pack_maps``,
``unpack_maps``), :mod:`.units` (``rss_weight``), :mod:`.wavelets` (``shrink_wavelets``).
"""
