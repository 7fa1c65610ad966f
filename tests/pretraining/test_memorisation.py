"""The experiment on memorisation: what it plants is there as often as it says, and is learned the better for it."""

from dataclasses import replace

import torch

from course_lib import storage
from course_lib.pretraining import memorisation
from course_lib.pretraining.memorisation import planted_model


def test_each_passage_is_in_the_text_as_often_as_it_says():
    planted = planted_model()
    seen = set()
    for times, passages in planted.passages.items():
        assert passages.shape == (8, 48)
        for passage in map(planted.text, passages):
            assert planted.train_text.count(passage) == times
            seen.add(passage)
    assert len(seen) == 8 * len(planted.passages)


def test_model_knows_better_what_it_saw_more_often():
    planted = planted_model()
    losses = []
    for passages in planted.passages.values():
        with torch.inference_mode():
            chances = planted.model(passages)[:, :-1].softmax(dim=-1)
        losses.append(-chances.gather(2, passages[:, 1:, None]).log2().mean().item())
    never, once, four_times, sixteen_times = losses
    assert never > once > four_times > sixteen_times
    assert never - sixteen_times > 1.5  # bits a character


def test_global_seed_is_left_alone_and_the_model_is_made_once():
    torch.manual_seed(7)
    untouched = torch.rand(3)
    torch.manual_seed(7)
    assert planted_model(1) is planted_model(1)
    assert torch.equal(torch.rand(3), untouched)


def test_the_model_is_kept_and_a_damaged_one_is_trained_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "own_dir", lambda: tmp_path)
    monkeypatch.setattr(memorisation, "_RECIPE", replace(memorisation._RECIPE, n_steps=10))
    afresh = planted_model.__wrapped__  # as in another session

    def weights() -> list[torch.Tensor]:
        return list(afresh().model.state_dict().values())

    trained = weights()
    (file,) = tmp_path.glob("planted-model-*/model.safetensors")
    whole, trained_at = file.read_bytes(), file.stat().st_mtime_ns
    assert all(map(torch.equal, weights(), trained)) and file.stat().st_mtime_ns == trained_at
    file.write_bytes(whole[:-4])
    assert all(map(torch.equal, weights(), trained)) and file.read_bytes() == whole
