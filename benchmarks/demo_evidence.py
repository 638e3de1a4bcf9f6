"""What the demo bundle does to people it never saw: reconstruction, recognition, attributes, and the method as a whole.

    python -m benchmarks.demo_evidence --people 300

Everybody here is drawn from seeds at and above `HELD_OUT_SEED + 1000`, which no training uses. Identities and
attributes are drawn, so ground truth is exact. Re-identification is measured by a second recogniser
(`demo/evaluation/`), of another architecture and other seeds, that the optimisation never sees. Writes the JSON and,
beside it, a plot of the same name.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.result import RESULTS, ROOT, new_result, new_row, table, write
from faceanon_engine.demo.people import HELD_OUT_SEED, labels, sample_person
from faceanon_engine.demo.render import render_codes
from faceanon_engine.demo.training.identity import PlainEncoder
from faceanon_engine.engine.images.pixels import from_uint8
from faceanon_engine.engine.method.falco import Falco
from faceanon_engine.engine.method.pool import PoolSpec
from faceanon_engine.engine.method.pool_opening import open_or_make_pool
from faceanon_engine.engine.method.preset import Preset, get_preset
from faceanon_engine.engine.method.stages import embed_identity
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.models.opened import OpenedNetworks
from faceanon_engine.engine.networks.features import attribute_features
from faceanon_engine.engine.sessions.runs import sessions_of_bundle, settle

SECOND = ROOT / "demo" / "evaluation" / "second_recogniser.safetensors"
FIRST_PERSON = HELD_OUT_SEED + 1000
MARGINS = (0.0, 0.5, 0.9)
Floats = npt.NDArray[np.floating[Any]]
Images = npt.NDArray[np.uint8]


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """SSIM [N] of grey images of [N, 3, H, W] in [-1, 1], 7x7 windows of equal weight (Wang et al., 2004)."""
    a, b = a.mean(dim=1, keepdim=True), b.mean(dim=1, keepdim=True)

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 7, stride=1)

    ma, mb = mean(a), mean(b)
    va, vb, covariance = mean(a * a) - ma * ma, mean(b * b) - mb * mb, mean(a * b) - ma * mb
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    value = (2 * ma * mb + c1) * (2 * covariance + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    return value.mean(dim=(1, 2, 3))


def likeness(images: Tensor, originals: Tensor) -> dict[str, float]:
    """Mean absolute error on the scale of 255 levels, PSNR in dB, SSIM: means over images in [-1, 1]."""
    squares = ((images - originals) / 2).square().mean(dim=(1, 2, 3))
    return {
        "mean_absolute_error_levels": float((images - originals).abs().mean() * 127.5),
        "psnr_db": float((-10 * squares.log10()).mean()),
        "ssim": float(structural_similarity(images, originals).mean()),
    }


def pair_scores(embeddings: Floats, person: Floats) -> tuple[Floats, Floats]:
    """Cosines of all pairs of the same person, and of all pairs of different ones."""
    cosine = embeddings @ embeddings.T
    upper = np.triu_indices(len(embeddings), 1)
    same = person[upper[0]] == person[upper[1]]
    return cosine[upper][same], cosine[upper][~same]


def area_under_curve(same: Floats, different: Floats) -> float:
    """ROC-AUC: the share of (same, different) pairs that are in the right order."""
    order = np.sort(different)
    below = np.searchsorted(order, same, "left") + np.searchsorted(order, same, "right")
    return float(below.mean() / (2 * len(order)))


def threshold_at(different: Floats, false_accepts: float) -> float:
    """Cosine that this share of pairs of different people exceeds."""
    return float(np.quantile(different, 1 - false_accepts))


class Attributes:
    """The bundle's attribute encoder with the head that was trained with it."""

    def __init__(self, networks: OpenedNetworks, preset: Preset) -> None:
        bundle = networks.bundle
        extra = bundle.content["extra"]
        head = load_file(bundle.path / extra["attribute_head"]["file"])
        self.names: list[str] = extra["attributes"]
        self.weight, self.bias = head["weight"].float(), head["bias"].float()
        self.encoder, self.recipe = networks.attribute_encoder, preset.attribute_real

    @torch.no_grad()
    def predict(self, pictures: Images) -> npt.NDArray[np.bool_]:
        """Answers [N, A] for pictures uint8 [N, H, W, 3]."""
        features = attribute_features(self.encoder, from_uint8(torch.from_numpy(pictures)), self.recipe)
        return (F.linear(features.embedding, self.weight, self.bias) > 0).numpy()


def reconstruction(networks: OpenedNetworks, codes: Floats, pictures: Images) -> dict[str, Any]:
    """How near the inversion comes to the picture, beside the generator given the picture's own vector."""
    originals = from_uint8(torch.from_numpy(pictures))
    generator = networks.generator
    with torch.no_grad():
        drawn = generator.synthesis(generator.broadcast(generator.mapping(torch.from_numpy(codes))))
        inverted = generator.synthesis(networks.inverter(originals))
    return {
        "pictures": len(pictures),
        "inversion": likeness(inverted.clamp(-1, 1), originals),
        "generator_from_true_vector": likeness(drawn.clamp(-1, 1), originals),
    }


def recognition(embeddings: Floats, person: Floats) -> dict[str, Any]:
    same, different = pair_scores(embeddings, person)
    return {
        "roc_auc": area_under_curve(same, different),
        "pairs_same": len(same),
        "pairs_different": len(different),
        "cosine_same_mean": float(same.mean()),
        "cosine_different_mean": float(different.mean()),
        "threshold_at_0.1_percent_false_accepts": threshold_at(different, 0.001),
        "threshold_at_1_percent_false_accepts": threshold_at(different, 0.01),
        "true_accepts_at_0.1_percent": float((same > threshold_at(different, 0.001)).mean()),
    }


def reidentification(probes: Floats, gallery: Floats, known: dict[str, Any]) -> dict[str, float]:
    """How often the second recogniser finds the person of probe i, who is row i of the gallery.

    accepted_at_*: the cosine with the own original exceeds the threshold. rank_1: the own original is the nearest.
    """
    cosine = probes @ gallery.T
    own = np.diag(cosine)
    return {
        "cosine_mean": float(own.mean()),
        "accepted_at_0.1_percent": float((own > known["threshold_at_0.1_percent_false_accepts"]).mean()),
        "accepted_at_1_percent": float((own > known["threshold_at_1_percent_false_accepts"]).mean()),
        "rank_1": float((cosine.argmax(axis=1) == np.arange(len(probes))).mean()),
        "rank_1_by_chance": 1 / len(gallery),
    }


def difference(ours: Floats, theirs: Floats) -> dict[str, Any]:
    """Mean of ours - theirs over people, and the interval that 95 of 100 redrawn sets of people give (bootstrap)."""
    each = ours - theirs
    drawn = np.random.default_rng(0).integers(0, len(each), (10_000, len(each)))
    return {"mean": float(each.mean()), "interval_95": np.quantile(each[drawn].mean(axis=1), [0.025, 0.975]).tolist()}


def evidence(bundle: Bundle, arguments: argparse.Namespace) -> dict[str, Any]:
    """All values of the result."""
    preset = get_preset("falco")
    networks = OpenedNetworks(bundle)
    runs = settle("torch", "fp32", "cpu")
    sessions = sessions_of_bundle(bundle, runs, networks=networks)
    attributes = Attributes(networks, preset)
    second = PlainEncoder()
    second.load_state_dict({key: value.float() for key, value in load_file(SECOND).items()}, strict=False)
    second.eval()

    @torch.no_grad()
    def second_embedding(pictures: Images) -> Floats:
        return second(from_uint8(torch.from_numpy(pictures))).numpy()

    def by_name(shares: Floats) -> dict[str, float]:
        return dict(zip(attributes.names, shares.tolist(), strict=True))

    views = 4
    codes = np.concatenate([sample_person(FIRST_PERSON + i, views) for i in range(arguments.known)])
    person = np.repeat(np.arange(arguments.known), views)
    pictures = render_codes(codes, bundle.resolution)
    truth = np.array([[labels(u)[name] > 0 for name in attributes.names] for u in codes])
    values: dict[str, Any] = {"reconstruction": reconstruction(networks, codes[::views], pictures[::views])}

    def embed(pictures: Images) -> Floats:
        return embed_identity(sessions, from_uint8(pictures), preset.identity_real)

    own = embed(pictures)
    values["identity_encoder"] = recognition(own, person)
    values["second_recogniser"] = recognition(second_embedding(pictures), person)
    right = attributes.predict(pictures) == truth
    majority = np.maximum(truth.mean(axis=0), 1 - truth.mean(axis=0))
    recalls = [right[truth[:, i] == value, i].mean() for i in range(right.shape[1]) for value in (False, True)]
    values["attribute_encoder"] = {
        "accuracy_mean": float(right.mean()),
        "balanced_accuracy_mean": float(np.mean(recalls)),
        "always_the_commoner_answer": float(majority.mean()),
        "accuracy": by_name(right.mean(axis=0)),
        "share": by_name(truth.mean(axis=0)),
    }

    # The method, on the first picture of the first people; their second picture is the attacker's gallery as well.
    rows = np.arange(arguments.people) * views
    originals, real_truth = pictures[rows], truth[rows]
    said = attributes.predict(originals)
    galleries = {"same_picture": second_embedding(originals), "other_picture": second_embedding(pictures[rows + 1])}
    own_threshold = values["identity_encoder"]["threshold_at_0.1_percent_false_accepts"]

    kept: dict[str, Floats] = {}

    def judged(case: str, outputs: Images) -> dict[str, Any]:
        answers = attributes.predict(outputs)
        kept[case] = (answers == said).mean(axis=1)
        cosine = (embed(outputs) * own[rows]).sum(axis=1)
        return {
            "identity_cosine_mean": float(cosine.mean()),
            "identity_cosine_95th_percentile": float(np.quantile(cosine, 0.95)),
            "share_below_own_threshold": float((cosine < own_threshold).mean()),
            "attributes_as_predicted_of_original": float(kept[case].mean()),
            "attributes_as_drawn": float((answers == real_truth).mean()),
            "as_predicted_of_original": by_name((answers == said).mean(axis=0)),
            "second_recogniser": {
                name: reidentification(second_embedding(outputs), gallery, values["second_recogniser"])
                for name, gallery in galleries.items()
            },
        }

    with tempfile.TemporaryDirectory() as folder:
        spec = PoolSpec(bundle.digest, arguments.pool)
        pool = open_or_make_pool(spec, networks, sessions, preset, batch_size=64, root=Path(folder))
        method: dict[str, Any] = {"people": arguments.people, "pool": arguments.pool, "steps": preset.steps}
        method["original_itself"] = judged("original", originals)
        method["another_person"] = judged("another_person", np.roll(originals, 1, axis=0))
        for margin in MARGINS:
            falco = Falco(networks, sessions, pool, preset, margin=margin)
            started = time.monotonic()
            parts = [
                falco.anonymize(part, include_intermediates=True)
                for part in np.array_split(originals, -(-len(originals) // 16))
            ]
            seconds = time.monotonic() - started
            if margin == MARGINS[0]:
                method["inversion"] = judged("inversion", np.concatenate([part.inversions for part in parts]))
                method["nearest_fake"] = judged("nearest_fake", np.concatenate([part.neighbours for part in parts]))
            here = judged(f"margin_{margin:g}", np.concatenate([part.images for part in parts]))
            here["attribute_loss_before"] = float(np.mean(np.concatenate([p.attribute_before for p in parts])))
            here["attribute_loss_after"] = float(np.mean(np.concatenate([p.attribute_after for p in parts])))
            here["seconds_per_image"] = seconds / len(originals)
            method[f"margin_{margin:g}"] = here
            for other in ("inversion", "nearest_fake"):
                here[f"attributes_as_predicted_less_{other}"] = difference(kept[f"margin_{margin:g}"], kept[other])
            print(f"margin {margin}: cosine {here['identity_cosine_mean']:.3f}", flush=True)
    values["method"] = method
    return values


def plot(values: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    method = values["method"]
    cases = ["inversion", *(f"margin_{margin:g}" for margin in MARGINS), "nearest_fake", "another_person"]
    names = [case.replace("_", " ") for case in cases]
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    axes[0].bar(names, [method[case]["identity_cosine_mean"] for case in cases], color="tab:blue")
    threshold = values["identity_encoder"]["threshold_at_0.1_percent_false_accepts"]
    axes[0].axhline(threshold, color="black", linestyle="--", linewidth=1, label="match at 0.1 % false accepts")
    axes[0].set_ylim(0, 1.2)  # room for the legend
    axes[0].set_title("identity cosine with the original")
    axes[0].legend()
    second = [method[case]["second_recogniser"]["same_picture"]["accepted_at_1_percent"] for case in cases]
    axes[1].bar(names, second, color="tab:red")
    axes[1].axhline(0.01, color="black", linestyle="--", linewidth=1, label="strangers")
    axes[1].set_ylim(0, 1.2)
    axes[1].set_title("share accepted by the second recogniser")
    axes[1].legend()
    axes[2].bar(names, [method[case]["attributes_as_predicted_of_original"] for case in cases], color="tab:green")
    axes[2].set_ylim(0.5, 1)
    axes[2].set_title("attributes answered as for the original")
    for axis in axes:
        axis.tick_params(axis="x", rotation=30)
    figure.savefig(path, dpi=110)


def summary(values: dict[str, Any]) -> str:
    """The few numbers one asks for first."""
    cases = []
    for name, of_case in values["method"].items():
        if isinstance(of_case, dict):
            second = of_case["second_recogniser"]["same_picture"]
            shown = {
                "cosine": of_case["identity_cosine_mean"],
                "below": of_case["share_below_own_threshold"],
                "2nd@1%": second["accepted_at_1_percent"],
                "rank 1": second["rank_1"],
                "as said": of_case["attributes_as_predicted_of_original"],
                "as drawn": of_case["attributes_as_drawn"],
            }
            cases.append(new_row({"case": name}, **shown))
    return "\n".join(
        [
            f"inversion: {values['reconstruction']['inversion']}",
            f"identity encoder: ROC-AUC {values['identity_encoder']['roc_auc']:.4f}",
            f"second recogniser: ROC-AUC {values['second_recogniser']['roc_auc']:.4f}",
            f"attributes: {values['attribute_encoder']['accuracy_mean']:.4f}",
            table(cases, ["cosine", "below", "2nd@1%", "rank 1", "as said", "as drawn"]),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="demo")
    parser.add_argument("--known", type=int, default=300, help="people the recognisers are judged on")
    parser.add_argument("--people", type=int, default=96, help="people who are anonymized")
    parser.add_argument("--pool", type=int, default=2048, help="generated faces to pair with")
    parser.add_argument("--output", type=Path, default=RESULTS / "demo_evidence.json")
    arguments = parser.parse_args()
    if not 2 <= arguments.people <= arguments.known:
        parser.error("--people must be between 2 and --known")
    started = time.monotonic()
    bundle = Bundle.open(arguments.bundle)
    result = new_result(
        "demo_evidence",
        "what the demo bundle does to people it never saw: "
        "reconstruction, recognition, attributes, the method as a whole",
        bundle={"digest": bundle.digest, "training": bundle.content["extra"].get("training")},
        known=arguments.known,
        people=arguments.people,
        pool=arguments.pool,
    )
    result["values"] = evidence(bundle, arguments)
    result["seconds"] = round(time.monotonic() - started, 1)
    write(arguments.output, result)
    plot(result["values"], arguments.output.with_suffix(".png"))
    print(summary(result["values"]))


if __name__ == "__main__":
    main()
