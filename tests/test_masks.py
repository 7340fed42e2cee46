"""Controls keep what they promise, set operations match sets, files are whole, stable and checked."""

import inspect
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from xsub_utils.heads.masks import (
    intersection,
    invert,
    load_masks,
    majority,
    random_mask,
    save_masks,
    shuffle_mask,
    union,
)


def make_mask(*, layers=4, heads=6, kept=0.4, seed=0):
    return torch.rand(layers, heads, generator=torch.Generator().manual_seed(seed)) < kept


def bits(text):
    return torch.tensor([[bit == "1" for bit in row] for row in text.split()])


def overlap(a, b):
    return int((a & b).sum()) / int((a | b).sum())


CONTROLS = {
    "random": lambda mask, seed: random_mask(mask, seed=seed),
    "random per layer": lambda mask, seed: random_mask(mask, seed=seed, per_layer=True),
    "all": lambda mask, seed: shuffle_mask(mask, over="all", seed=seed),
    "layers": lambda mask, seed: shuffle_mask(mask, over="layers", seed=seed),
    "within": lambda mask, seed: shuffle_mask(mask, over="within", seed=seed),
}
each_control = pytest.mark.parametrize("control", CONTROLS.values(), ids=CONTROLS.keys())


@each_control
@pytest.mark.parametrize("kept", [0, 0.1, 0.5, 1])
def test_controls_keep_the_number_of_heads(control, kept):
    for seed in range(20):
        mask = make_mask(kept=kept, seed=seed)
        found = control(mask, seed)
        assert found.dtype == torch.bool
        assert found.shape == mask.shape
        assert found.sum() == mask.sum()


@pytest.mark.parametrize(("name", "dim"), [("random per layer", 1), ("within", 1), ("layers", 0)])
def test_controls_keep_the_counts_they_promise(name, dim):
    for seed in range(20):
        mask = make_mask(seed=seed)
        assert torch.equal(CONTROLS[name](mask, seed).sum(dim), mask.sum(dim))


@each_control
def test_controls_depend_on_seed_and_mask_alone(control):
    mask = make_mask(layers=12, heads=12)
    before, state, numpy_state = mask.clone(), torch.get_rng_state(), np.random.get_state()[1].copy()
    found = control(mask, 3)
    assert torch.equal(found, control(mask.t().contiguous().t(), 3))
    assert not torch.equal(found, control(mask, 4))
    assert torch.equal(mask, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_controls_with_one_seed_differ_from_each_other():
    mask = make_mask(layers=12, heads=12)
    found = [control(mask, 0) for control in CONTROLS.values()]
    assert len({tuple(control.flatten().tolist()) for control in found}) == len(CONTROLS)


@pytest.mark.parametrize("name", ["random", "all"])
def test_every_position_is_kept_equally_often(name):
    mask = bits("1100 0000 0000")
    draws = 1000
    share = sum(CONTROLS[name](mask, seed).double() for seed in range(draws)) / draws
    expected = 2 / 12
    error = (expected * (1 - expected) / draws) ** 0.5
    assert (share - expected).abs().max() < 4 * error


@pytest.mark.parametrize(("name", "dim"), [("random per layer", 1), ("within", 1), ("layers", 0)])
def test_every_position_of_a_line_is_kept_equally_often(name, dim):
    mask, draws = make_mask(layers=3, heads=4, seed=2), 1000
    share = sum(CONTROLS[name](mask, seed).double() for seed in range(draws)) / draws
    expected = mask.double().mean(dim, keepdim=True).expand(3, 4)
    assert ((share - expected).abs() <= 4 * (expected * (1 - expected) / draws).sqrt()).all()


@pytest.mark.parametrize("name", ["random", "all"])
def test_controls_of_two_masks_overlap_by_chance(name):
    """Masks alike in all but one position have unrelated controls, also with one seed."""
    overlaps = []
    for seed in range(200):
        mask = make_mask(layers=12, heads=12, kept=0.5, seed=seed)
        other = mask.clone()
        other[0, 0] = ~other[0, 0]
        overlaps.append(overlap(CONTROLS[name](mask, 0), CONTROLS[name](other, 0)))
    assert abs(np.mean(overlaps) - 1 / 3) < 4 * np.std(overlaps) / 200**0.5


def test_shuffles_by_hand():
    assert torch.equal(shuffle_mask(bits("111 000"), over="within", seed=0), bits("111 000"))
    assert torch.equal(shuffle_mask(bits("101 101"), over="layers", seed=0), bits("101 101"))
    found = {tuple(shuffle_mask(bits("11 00"), over="layers", seed=seed).flatten().tolist()) for seed in range(40)}
    assert found == {tuple(bits(text).flatten().tolist()) for text in ("11 00", "10 01", "01 10", "00 11")}


def test_unknown_shuffle():
    with pytest.raises(ValueError, match="over: expected one of all, layers, within, got 'heads'"):
        shuffle_mask(make_mask(), over="heads")


@each_control
def test_negative_seed(control):
    with pytest.raises(ValueError, match="seed: expected an integer of at least 0, got -1"):
        control(make_mask(), -1)


def test_invert():
    assert torch.equal(invert(bits("110 000")), bits("001 111"))


def test_set_operations_by_hand():
    masks = [bits("1100"), bits("1010"), bits("1001")]
    assert torch.equal(union(masks), bits("1111"))
    assert torch.equal(intersection(masks), bits("1000"))
    assert torch.equal(majority(masks), bits("1000"))
    assert torch.equal(majority([*masks, bits("1110")]), bits("1000")), "half of the masks is no majority"
    assert torch.equal(majority([*masks, bits("1110"), bits("0100")]), bits("1100"))


def test_set_operations_match_sets():
    masks = [make_mask(seed=seed) for seed in range(5)]
    sets = [{tuple(index) for index in mask.nonzero().tolist()} for mask in masks]
    for found, expected in (
        (union(iter(masks)), set.union(*sets)),
        (intersection(iter(masks)), set.intersection(*sets)),
        (majority(iter(masks)), {head for head in set.union(*sets) if sum(head in kept for kept in sets) > 2}),
    ):
        assert {tuple(index) for index in found.nonzero().tolist()} == expected
    one = masks[:1]
    assert torch.equal(union(one), masks[0])
    assert torch.equal(intersection(one), masks[0])
    assert torch.equal(majority(one), masks[0])


@pytest.mark.parametrize("merge", [union, intersection, majority])
def test_nothing_to_merge(merge):
    with pytest.raises(ValueError, match="masks: expected at least one, all of one shape, got none"):
        merge([])
    with pytest.raises(ValueError, match=r"masks: expected .* got shapes \[\(2, 3\), \(4, 6\)\]"):
        merge([make_mask(), make_mask(layers=2, heads=3)])


META = {"task": "nli", "retain": 0.95, "seeds": [0, 1]}


def make_masks():
    return {"qab": make_mask(seed=1), "qaa": make_mask(seed=2), "größe/π": make_mask(layers=1, heads=1)}


def test_files_give_back_masks_order_and_meta(tmp_path):
    masks = make_masks()
    save_masks(tmp_path / "masks.npz", masks, META)
    found, meta = load_masks(tmp_path / "masks.npz")
    assert meta == META
    assert list(found) == list(masks)
    assert all(torch.equal(found[name], masks[name]) for name in masks)
    found["qaa"][0, 0] = True  # writable


def test_files_hold_masks_of_any_shape(tmp_path):
    masks = {"scalar": torch.tensor(True), "weights": torch.rand(2, 3, 4) > 0.5, "none": torch.zeros(0, 4) > 0}
    save_masks(str(tmp_path / "masks.npz"), masks, {})
    found, _ = load_masks(str(tmp_path / "masks.npz"))
    assert all(torch.equal(found[name], masks[name]) for name in masks)


def test_numpy_reads_the_file(tmp_path):
    save_masks(tmp_path / "masks.npz", make_masks(), META)
    with np.load(tmp_path / "masks.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["qaa"], np.packbits(make_masks()["qaa"].numpy()))


def test_an_entry_takes_a_bit(tmp_path):
    save_masks(tmp_path / "masks.npz", {"weights": torch.rand(1000, 80) > 0.5}, {})
    assert (tmp_path / "masks.npz").stat().st_size < 80_000 / 8 + 1000


def test_equal_masks_give_equal_bytes(tmp_path, monkeypatch):
    masks = make_masks()
    save_masks(tmp_path / "a.npz", masks, META)
    monkeypatch.setattr("time.localtime", lambda *_: (2001, 1, 1, 0, 0, 0, 0, 1, 0))
    transposed = {name: mask.t().contiguous().t() for name, mask in masks.items()}
    save_masks(tmp_path / "b.npz", transposed, dict(reversed(META.items())))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    save_masks(tmp_path / "b.npz", masks | {"qaa": ~masks["qaa"]}, META)
    assert (tmp_path / "a.npz").read_bytes() != (tmp_path / "b.npz").read_bytes()


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "masks.npz"
    save_masks(path, make_masks(), META)
    before = path.read_bytes()
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_masks(path, make_masks(), {"model": object()})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["masks.npz"]


def test_only_boolean_masks_are_saved(tmp_path):
    without_type_checks = inspect.unwrap(save_masks)
    with pytest.raises(TypeError, match=r"masks: expected tensors of torch\.bool, got 'soft' of torch\.float32"):
        without_type_checks(tmp_path / "masks.npz", {"soft": torch.rand(2, 3)}, META)
    assert os.listdir(tmp_path) == []


def test_a_kill_between_write_and_rename_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "masks.npz"
    save_masks(path, make_masks(), META)
    before = path.read_bytes()

    def killed(*_):
        assert path.read_bytes() == before
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_masks(path, {}, {})
    assert path.read_bytes() == before


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"masks\.npz"):
        load_masks(tmp_path / "masks.npz")


def test_damage_never_passes(tmp_path):
    """Any file cut short, and any changed byte, gives an error, or else the very masks that were saved."""
    path, masks = tmp_path / "masks.npz", make_masks()
    save_masks(path, masks, META)
    whole = path.read_bytes()
    damaged = [whole[:length] for length in range(0, len(whole), 7)]
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        damaged.append(bytes(changed))
    refused = 0
    for data in damaged:
        path.write_bytes(data)
        try:
            found, meta = load_masks(path)
        except ValueError as error:
            assert f"{path}, which is damaged or holds something else" in str(error)
            refused += 1
        else:
            assert meta == META
            assert list(found) == list(masks)
            assert all(torch.equal(found[name], masks[name]) for name in masks)
    assert refused > len(damaged) / 2


def archive(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in members.items():
            file.writestr(name.replace("_", "."), data)
    return buffer.getvalue()


def npy(array, **options):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"some text",
        archive(a_npy=npy(np.ones(3, dtype=bool))),
        archive(index_json='{"masks": {"a": [3]}, "meta": {}}'),
        archive(index_json='{"masks": {"a": [3]}, "meta": {}}', a_npy=npy(np.ones(1))),
        archive(index_json='{"masks": {"a": [9]}, "meta": {}}', a_npy=npy(np.ones(1, dtype=np.uint8))),
        archive(index_json='{"masks": {"a": [3]}, "meta": {}}', a_npy=npy(np.array([None]), allow_pickle=True)),
    ],
    ids=["empty", "text", "other npz", "missing mask", "numbers", "other shape", "pickle"],
)
def test_other_files_are_refused(tmp_path, data):
    path = tmp_path / "masks.npz"
    path.write_bytes(data)
    with pytest.raises(
        ValueError,
        match=r"path: expected .*masks\.npz, which is damaged .* save them again",
    ):
        load_masks(path)
