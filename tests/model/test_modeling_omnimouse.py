"""The model: what it may see, losses, inputs, and the execution modes."""

import copy
import pickle

import pytest
import torch

from omnimouse import TASKS, TRAINING_MASKS, Mask, OmniMouseConfig, OmniMouseModel

SMALL = {
    "hidden_size": 32, "identity_size": 8, "num_attention_heads": 2, "num_latents": 4, "num_registers": 2,
    "video_hidden_size": 16, "video_depths": [1, 1], "video_drop_path_rate": 0.0,
}  # fmt: skip
NEURONS = 70


def build(preset="1m", neurons=NEURONS, **overrides):
    torch.manual_seed(0)
    model = OmniMouseModel(OmniMouseConfig.from_preset(preset, **{**SMALL, **overrides}))
    model.add_session("mouse-1-1", n_neurons=neurons, animal_id="mouse")
    for _, parameter in model.session_named_parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def windows(batch=2, neurons=NEURONS):
    generator = torch.Generator().manual_seed(1)
    return {
        "responses": torch.rand(batch, 60, neurons, generator=generator) * 3,
        "video": torch.randn(batch, 1, 60, 36, 64, generator=generator),
        "behavior": torch.randn(batch, 5, 40, generator=generator),
    }


def predictions(model, inputs, mask):
    with torch.no_grad():
        out = model("mouse-1-1", **inputs, mask=mask, all_neurons=True)
    return [p for p in (out.response_predictions, out.behavior_predictions) if p is not None]


def scramble_hidden(inputs, mask, config):
    """Replaces everything that the mask hides: by noise, and in places by NaN."""
    resolved = mask.resolve(inputs["responses"].shape[2], config)
    visible = torch.zeros_like(inputs["responses"], dtype=torch.bool)
    for piece in resolved.segments:
        visible[:, piece.start : piece.stop, piece.first : piece.last] = True
    hidden_responses = torch.rand_like(inputs["responses"]) * 100
    video = torch.full_like(inputs["video"], torch.nan)
    video[:, :, 1::2] = 50 * torch.randn_like(video[:, :, 1::2])
    shown = slice(mask.frames_start, mask.frames_start + mask.n_frames)
    video[:, :, shown] = inputs["video"][:, :, shown]
    behavior = inputs["behavior"] if mask.behavior == "encoded" else 100 * torch.randn_like(inputs["behavior"])
    responses = torch.where(visible, inputs["responses"], hidden_responses)
    return {"responses": responses, "video": video, "behavior": behavior}


def equal(first, second):
    return all(torch.equal(a.nan_to_num(-7), b.nan_to_num(-7)) for a, b in zip(first, second, strict=True))


def test_nothing_hidden_is_seen_under_any_training_mask():
    # Populations of 1,100 so that every mask of the release applies; tokens are few because the model is tiny.
    neurons = 1100
    model, inputs = build(neurons=neurons, num_latents=2, num_registers=1), windows(1, neurons)
    for index, mask in enumerate(TRAINING_MASKS):
        scrambled = scramble_hidden(inputs, mask, model.config)
        found = predictions(model, scrambled, mask)
        assert equal(predictions(model, inputs, mask), found), f"training mask {index}"
        assert all(part.isfinite().any() for part in found)


@pytest.mark.parametrize(("first", "n_frames"), [(0, 30), (31, 10)])
def test_video_is_seen_from_the_first_visible_frame_to_the_last(first, n_frames):
    # All training masks show video to the end of the window; what follows a visible range is hidden just as well.
    mask = Mask(
        0, 0, 0, context_start=0, context_length=0, n_target_neurons=None,
        target_start=30, target_length=30, frames_start=first, n_frames=n_frames,
    )  # fmt: skip
    model, inputs = build(), windows(1)
    before = predictions(model, inputs, mask)
    for frame in {first - 1, first, first + n_frames - 1, first + n_frames} & set(range(60)):
        changed = inputs["video"].clone()
        changed[:, :, frame] = 50
        after = predictions(model, {**inputs, "video": changed}, mask)
        assert equal(before, after) == (not first <= frame < first + n_frames), frame


@pytest.mark.parametrize("task", TASKS)
def test_what_is_shown_is_used(task):
    model, inputs = build(), windows()
    mask = TASKS[task]
    before = predictions(model, inputs, mask)
    for name, shown in (
        ("responses", mask.prefix_length),
        ("video", mask.n_frames),
        ("behavior", mask.behavior == "encoded"),
    ):
        changed = {**inputs, name: inputs[name].flip(0)}
        assert equal(before, predictions(model, changed, mask)) == (not shown), name


def test_the_published_layout_sees_hidden_frames():
    # The released weights scatter attention over time: a mask does not hide frames from the video features.
    mask = Mask(
        0, 0, 0, context_start=0, context_length=0, n_target_neurons=None,
        target_start=30, target_length=30, frames_start=30, n_frames=30, behavior="encoded",
    )  # fmt: skip
    for layout, leaks in (("published", True), ("spatial", False)):
        model, inputs = build(video_attention_layout=layout), windows()
        changed = inputs["video"].clone()
        changed[:, :, :4] += 1
        other = predictions(model, {**inputs, "video": changed}, mask)
        assert equal(predictions(model, inputs, mask), other) != leaks


def test_spatial_video_features_of_some_steps_equal_those_of_all():
    encoder = build(preset="1m").video_encoder
    video = windows()["video"]
    with torch.no_grad():
        everything = encoder(video, (0, 60), (0, 30)).unflatten(1, (30, -1))
        some = encoder(video, (0, 60), (10, 20)).unflatten(1, (10, -1))
    torch.testing.assert_close(everything[:, 10:20], some)


def test_encoded_video_stands_for_the_video_of_masks_that_show_the_same_frames():
    model, inputs = build(), windows()
    rest = {name: values for name, values in inputs.items() if name != "video"}
    with torch.no_grad():
        for layout in ("spatial", "published"):
            model = build(video_attention_layout=layout)
            features = model.encode_video(inputs["video"], "stimulus")
            for mask in ("stimulus", "population+stimulus", "forecasting+stimulus+behavior"):
                found = model("mouse-1-1", **rest, mask=mask, video_features=features, all_neurons=True)
                expected = model("mouse-1-1", **inputs, mask=mask, all_neurons=True)
                assert torch.equal(found.loss, expected.loss), (layout, mask)


def test_encoded_video_is_refused_where_it_does_not_belong():
    model, inputs = build(), windows()
    features = model.encode_video(inputs["video"], "stimulus")
    rest = {name: values for name, values in inputs.items() if name != "video"}
    with pytest.raises(ValueError, match="pass one of both"):
        model("mouse-1-1", **inputs, mask="stimulus", video_features=features)
    with pytest.raises(ValueError, match="pass one of both"):
        model("mouse-1-1", **rest, mask="forecasting", video_features=features)
    with pytest.raises(ValueError, match="video_features should have shape"):
        model("mouse-1-1", **rest, mask="stimulus", video_features=features[:, 1:])
    with pytest.raises(ValueError, match="shows no video"):
        model.encode_video(inputs["video"], "forecasting")
    with pytest.raises(ValueError, match=r"^video should have shape"):
        model.encode_video(inputs["video"][:, 0], "stimulus")


def test_query_projection_runs_once_per_neuron():
    model, inputs = build(), windows()
    rows = []
    model.decoder.query.register_forward_hook(lambda module, args, out: rows.append(out.shape[1]))
    out = model("mouse-1-1", **inputs, mask="stimulus", all_neurons=True)
    assert rows == [NEURONS + 5]  # neurons once, not once per target step, and the behaviour channels
    assert out.response_predictions.shape == (2, 30, NEURONS)


def test_losses_obey_the_configuration():
    numbers = {"response_loss_epsilon": 0.5, "response_loss_clamp": 0.8, "behavior_loss_clamp": 0.3}
    model, inputs = build("tiny", behavior_loss_weight=0.7, **numbers), windows()
    out = model("mouse-1-1", **inputs, mask="population", all_neurons=True)
    p, y = out.response_predictions, out.response_targets
    torch.testing.assert_close(out.response_loss, (p - y * (p + 0.5).log()).clamp(-0.8, 0.8).mean())
    errors = (out.behavior_predictions - inputs["behavior"]).square().clamp(max=0.3)
    torch.testing.assert_close(out.loss, out.response_loss + 0.7 * errors.mean())


def test_total_loss_weighs_behaviour_and_leaves_out_what_is_not_predicted():
    model, inputs = build(), windows()
    both = model("mouse-1-1", **inputs, mask="stimulus", all_neurons=True)
    torch.testing.assert_close(both.loss, both.response_loss + 0.1 * both.behavior_loss)
    only_behavior = model("mouse-1-1", **inputs, mask="behavior", all_neurons=True)
    assert only_behavior.response_loss is None and only_behavior.response_predictions is None
    torch.testing.assert_close(only_behavior.loss, 0.1 * only_behavior.behavior_loss)
    nothing_to_compare = model("mouse-1-1", video=inputs["video"], mask="stimulus", all_neurons=True)
    assert nothing_to_compare.loss is None and nothing_to_compare.response_predictions is not None


def test_rows_where_nothing_is_predicted_are_nan_and_marked():
    model, inputs = build(), windows()
    mask = Mask(
        8, 0, 35, context_start=0, context_length=60, n_target_neurons=None,
        target_start=20, target_length=40, behavior="encoded",
    )  # fmt: skip
    out = model("mouse-1-1", **inputs, mask=mask, all_neurons=True)
    assert out.target_start == 20 and out.target_mask.shape == (40, NEURONS)
    assert torch.equal(out.response_predictions.isnan(), (~out.target_mask).expand(2, -1, -1))
    assert out.loss.isfinite()


def test_neuron_ids_and_the_random_population():
    model, inputs = build(max_population=32), windows()
    ids = torch.stack([torch.randperm(NEURONS)[:20] for _ in range(2)])
    out = model("mouse-1-1", **inputs, mask="population", neuron_ids=ids)
    assert torch.equal(out.target_neuron_ids, ids[:, 5:])
    for item in range(2):
        torch.testing.assert_close(out.response_targets[item], inputs["responses"][item, 30:, ids[item, 5:]])
    shuffled = model("mouse-1-1", **inputs, mask="stimulus")
    assert shuffled.target_neuron_ids.shape == (2, 32)
    assert all(len(set(row.tolist())) == 32 for row in shuffled.target_neuron_ids)
    assert not torch.equal(*shuffled.target_neuron_ids)  # every window has a shuffle of its own


def test_order_of_the_population_does_not_matter_to_a_neuron():
    model, inputs = build(), windows(1)
    order = torch.randperm(NEURONS)[None]
    natural = model("mouse-1-1", **inputs, mask="stimulus", all_neurons=True).response_predictions
    shuffled = model("mouse-1-1", **inputs, mask="stimulus", neuron_ids=order).response_predictions
    torch.testing.assert_close(shuffled, natural[:, :, order[0]], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"session": "mouse-2-2"}, "no session 'mouse-2-2'.*It has: mouse-1-1"),
        ({"responses": None, "mask": "forecasting"}, "shows responses but responses=None"),
        ({"video": None}, "shows video but video=None"),
        ({"behavior": None}, "shows behavior but behavior=None"),
        ({"responses": torch.zeros(2, 60, 71)}, r"responses should have shape \[B, 60, 70\], got \[2, 60, 71\]"),
        ({"video": torch.zeros(2, 60, 36, 64)}, r"video should have shape \[B, 1, 60, 36, 64\]"),
        ({"behavior": torch.zeros(3, 5, 40)}, "same batch size"),
        ({"mask": "everything"}, "Unknown task"),
        ({"neuron_ids": torch.zeros(2, 3, dtype=torch.long)}, "exclude each other"),
        ({"neuron_ids": torch.full((2, 3), 99), "all_neurons": False}, "between 0 and 69"),
        ({"neuron_ids": torch.zeros(1, 3, dtype=torch.long), "all_neurons": False}, r"shape \[2, P\]"),
    ],
)
def test_bad_inputs_are_refused_with_a_message(change, message):
    call = {"session": "mouse-1-1", **windows(), "mask": "stimulus+behavior", "all_neurons": True, **change}
    with pytest.raises(ValueError, match=message):
        build()(**call)


def test_gradient_checkpointing_changes_no_gradient():
    model, inputs = build(), windows()
    model.train()
    gradients = []
    for enable in (False, True):
        if enable:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model("mouse-1-1", **inputs, mask="forecasting+stimulus", all_neurons=True).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])


@pytest.mark.parametrize("task", ["forecasting+stimulus", "population", "behavior"])
def test_autocast_and_bfloat16_stay_close(task):
    model, inputs = build(), windows()
    exact = predictions(model, inputs, TASKS[task])[0]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = predictions(model, inputs, TASKS[task])[0]
    half = predictions(copy.deepcopy(model).to(torch.bfloat16), inputs, TASKS[task])[0]
    for other in (mixed, half):
        assert other.dtype == torch.float32
        assert float((other - exact).norm() / exact.norm()) < 0.03


def test_grouped_heads_and_extra_local_layers_run():
    model, inputs = build("5m", num_key_value_heads=1, num_fusion_layers=3, num_local_layers=1), windows()
    out = model("mouse-1-1", **inputs, mask="population+stimulus", all_neurons=True)
    out.loss.backward()
    assert all(p.grad is not None for p in model.fusion.parameters())


def test_plans_are_cached_and_copies_start_empty():
    model, inputs = build(), windows()
    predictions(model, inputs, TASKS["behavior"])
    predictions(model, inputs, TASKS["behavior"])
    predictions(model, inputs, TASKS["stimulus"])
    assert len(model._plans) == 2
    assert len(copy.deepcopy(model)._plans) == 0 and len(pickle.loads(pickle.dumps(model))._plans) == 0


def test_a_plan_made_while_scoring_serves_training():
    model, inputs = build(), windows()
    with torch.inference_mode():
        scored = model("mouse-1-1", **inputs, mask="forecasting", all_neurons=True)
        scored.target_mask.fill_(False)  # belongs to the caller
    out = model("mouse-1-1", **inputs, mask="forecasting", all_neurons=True)
    out.loss.backward()
    assert out.target_mask.all() and len(model._plans) == 1


def test_the_longest_period_of_the_rotary_embedding_is_the_window():
    for samples in (60, 120):
        frames = {"num_frames": samples, "num_behavior_samples": samples * 2 // 3}
        model = build("tiny", num_response_samples=samples, **frames)
        plan = model.window_plan("forecasting", 3)
        half = model.config.head_dim // 2
        periods = 1e-3 * (samples / 30 / 1e-3) ** (torch.arange(half, dtype=torch.float64) / half)
        # Time-major: three neurons at each step, then the behaviour channels.
        times = torch.arange(samples // 2, samples, 5, dtype=torch.float64) / 30
        angles = 2 * torch.pi * times[:, None] / periods
        cosines, sines = plan.decoder.query_rotary[:, : 3 * len(times)].double().unflatten(1, (-1, 3))[:, :, 0]
        torch.testing.assert_close(cosines, angles.cos(), atol=1e-6, rtol=0)
        torch.testing.assert_close(sines, angles.sin(), atol=1e-6, rtol=0)


def test_a_longer_window():
    model = build(num_response_samples=120, num_frames=120, num_behavior_samples=80)
    inputs = {
        "responses": torch.rand(1, 120, NEURONS), "video": torch.randn(1, 1, 120, 36, 64),
        "behavior": torch.randn(1, 5, 80),
    }  # fmt: skip
    out = model("mouse-1-1", **inputs, mask="forecasting+stimulus", all_neurons=True)
    assert out.response_predictions.shape == (1, 60, NEURONS) and out.target_start == 60


def test_stochastic_depth_acts_in_training_only():
    model, inputs = build(video_drop_path_rate=0.9, video_depths=[2, 2]), windows()
    assert equal(predictions(model, inputs, TASKS["stimulus"]), predictions(model, inputs, TASKS["stimulus"]))
    model.train()
    runs = [predictions(model, inputs, TASKS["stimulus"]) for _ in range(6)]
    assert not all(equal(runs[0], run) for run in runs)


def test_what_is_shown_of_an_output_is_a_line():
    model, inputs = build(), windows()
    out = model("mouse-1-1", **inputs, mask="stimulus", all_neurons=True)
    assert repr(out) == (
        "OmniMouseOutput(response_predictions=[2, 30, 70], target_mask=[30, 70], target_neuron_ids=[2, 70], "
        "target_start=30, behavior_predictions=[2, 5, 40], response_targets=[2, 30, 70], "
        f"response_loss={out.response_loss.item():.4g}, behavior_loss={out.behavior_loss.item():.4g}, "
        f"loss={out.loss.item():.4g})"
    )
    model.add_session("mouse-2-1", n_neurons=1000, animal_id="mouse")
    assert repr(model.sessions) == "SessionTables(sessions: 2, animals: 1, neurons: 1,070; mouse-1-1, mouse-2-1)"
    assert "WindowPlan(ResolvedMask(mask=Mask(n_visible_neurons=0" in repr(model.window_plan("stimulus", 70))
    assert len(repr(model.window_plan("stimulus", 70))) < 500
