from __future__ import annotations

from mri_ambient.io import open_scan


def test_a_data_set_can_mix_rates_and_masks(cli, tmp_path):
    cli("simulate", "phantom", "-o", tmp_path, "--scans", 6, "--size", 48, 48, "--coils", 2,
        "--acceleration", "2:3", "--mask-type", "random:0.5,gaussian:0.5", "--calib-lines", 8,
        "--noise", "0.001:0.1")  # fmt: skip
    rates = [open_scan(path).acceleration for path in tmp_path.glob("*.h5")]
    assert len(rates) == 6
    assert len(set(rates)) > 2
    assert 1.9 < min(rates) < max(rates) < 3.1


def test_ranges_and_shares_that_are_none_are_refused(cli, tmp_path):
    for option, bad in (
        ("--noise", "a:b"), ("--acceleration", "1:2:3"), ("--mask-type", "random:x"),
    ):  # fmt: skip
        words = ("simulate", "phantom", "-o", tmp_path / "out", "--scans", 1, option, bad)
        assert option in cli(*words, code=2).errors[0]
    assert not (tmp_path / "out").exists()


def test_every_option_arrives(cli, tmp_path):
    cli("simulate", "phantom", "-o", tmp_path, "--scans", 1, "--size", 48, 32, "--coils", 2,
        "--slices", 2, "--readout-oversampling", 2, "--full", "--seed", 3)  # fmt: skip
    (path,) = tmp_path.glob("*.h5")
    scan = open_scan(path)
    assert scan.shape == (2, 2, 96, 32)
    assert scan.recon_shape == (48, 32)
    assert scan.fully_sampled
