from ustack._core.py import probe_mem


def test_every_path_of_the_memory_model_once():
    got = probe_mem.smoke()
    assert got["blocks"] == 1                   # 64 KB land in one block
    assert got["sum"] == got["expected"]
    assert (got["summed"], got["fused"]) == (0, 65536)
    assert got["shared"]
    assert (got["rest"], got["out"], got["same"]) == (35536, 64536, 1)
    assert (got["early"], got["reaped"], got["ran"]) == (0, 1, 1)
    assert (got["live"], got["held"]) == (0, 0)
