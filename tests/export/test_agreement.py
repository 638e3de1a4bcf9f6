"""The demo bundle through ONNX Runtime and through Torch: same neighbours, same codes, same pictures."""

from __future__ import annotations

import os
import pickle
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

import faceanon_engine
from faceanon_engine.engine.datasets.reader import Reader
from faceanon_engine.engine.datasets.sample import sample_at
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images.pixels import from_uint8
from faceanon_engine.engine.method import stages
from faceanon_engine.engine.method.pool import PoolSpec
from faceanon_engine.engine.method.preset import PRESETS
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.sessions.cache import EngineCache
from faceanon_engine.engine.sessions.runs import sessions_of_bundle, sessions_of_folder, settle
from faceanon_engine.export import prepare
from faceanon_engine.export.onnx_export import export_graph
from tests.support.opened import Opened

FALCO = PRESETS["falco"]
SAMPLES = sorted((Path(__file__).resolve().parents[2] / "demo" / "samples").glob("person-*.png"))


@pytest.fixture(scope="module")
def home(demo: Bundle, traced: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FACEANON_HOME in which the demo bundle is built for ONNX Runtime."""
    root = tmp_path_factory.mktemp("home")
    folder = EngineCache(root / "engines").graphs_folder(demo.digest)
    for graph in ("synthesis", "inverter", "identity", "attributes"):
        export_graph(demo, graph, "fp32", folder, traced=traced(demo, graph), check=False)
    return root


@pytest.fixture(scope="module")
def originals() -> Any:
    return from_uint8(np.stack([Reader("never", 64).read(sample_at(path)).faces[0].pixels for path in SAMPLES]))


def shares(found: Any, expected: Any) -> float:
    """Largest difference as a share of the root mean square expected."""
    return float(np.abs(found - expected).max() / np.sqrt(np.square(expected).mean()))


@pytest.mark.parametrize("preset", ["falco", "falco-released"])
def test_features_codes_and_pictures_agree_with_torch(
    demo: Bundle, home: Path, originals: Any, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEANON_HOME", str(home))
    torch, other = (Opened(demo, PRESETS[preset], name) for name in ("torch", "onnxruntime"))
    codes = torch.invert(originals)
    # float32 in another order of sums, some dozen layers deep; the graph alone is held to 1e-5 by its export.
    assert shares(other.invert(originals), codes) < 5e-5
    assert shares(other.embed_attributes(originals), torch.embed_attributes(originals)) < 5e-5
    assert shares(other.embed_identity(originals), torch.embed_identity(originals)) < 5e-5
    pictures = [stages.synthesise(codes[:8]).astype(int) for stages in (torch, other)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1, "at most a rounding of the last bit"
    assert {about.provider for about in other.sessions.describe().values()} == {"CPUExecutionProvider"}


def test_the_pool_of_either_backend_gives_the_same_neighbours(
    demo: Bundle, home: Path, originals: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = PoolSpec(demo.digest, 80)
    found = {}
    for name in ("torch", "onnxruntime"):
        monkeypatch.setenv("FACEANON_HOME", str(home))
        stages = Opened(demo, FALCO, name)
        monkeypatch.setenv("FACEANON_HOME", str(tmp_path / name))
        (tmp_path / name).mkdir()
        (tmp_path / name / "engines").symlink_to(home / "engines")
        pool = stages.pool(spec, batch_size=16)
        found[name] = stages.pair(originals, pool, k=3)
    np.testing.assert_array_equal(found["torch"].ids, found["onnxruntime"].ids)
    np.testing.assert_allclose(found["torch"].distances, found["onnxruntime"].distances, rtol=1e-4)


def test_a_job_comes_to_the_same_with_either_backend(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEANON_HOME", str(home))
    (tmp_path / "list.txt").write_text("\n".join(str(path) for path in SAMPLES[:5]))
    rows, codes = {}, {}
    for name in ("torch", "onnxruntime"):
        result = faceanon_engine.anonymize(
            tmp_path / "list.txt",
            tmp_path / name,
            bundle="demo",
            backend=name,  # type: ignore[arg-type]
            steps=3,
            pool_size=24,
            align="never",
            device="cpu",
            save_codes=True,
            contact_sheet=2,
        )
        assert (result.done, result.failed) == (5, 0)
        assert result.about["backend"].startswith(name)
        with sqlite3.connect(tmp_path / name / "private" / "manifest.sqlite") as database:
            rows[name] = pandas.read_sql("select * from items", database)
        codes[name] = np.stack([np.load(tmp_path / name / "private" / file) for file in rows[name].codes])
    assert rows["torch"].neighbour_id.tolist() == rows["onnxruntime"].neighbour_id.tolist()
    assert rows["torch"].neighbour_id.nunique() > 1
    # Three Adam steps of 0.01 from the same start: what differs is rounding, far below one step.
    np.testing.assert_allclose(codes["torch"], codes["onnxruntime"], atol=1e-3)
    np.testing.assert_allclose(rows["torch"].identity_after, rows["onnxruntime"].identity_after, atol=1e-3)


def test_a_job_is_not_gone_on_with_in_another_precision(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEANON_HOME", str(home))
    settings: dict[str, Any] = {"bundle": "demo", "steps": 0, "pool_size": 4, "align": "never", "contact_sheet": 0}
    faceanon_engine.anonymize(SAMPLES[0], tmp_path / "out", **settings)
    with pytest.raises(UserError, match="precision was fp32, now bf16"):
        faceanon_engine.anonymize(SAMPLES[0], tmp_path / "out", precision="bf16", **settings)


TORCH_FREE = """
import json, sys
from pathlib import Path
import numpy as np
from faceanon_engine.engine.datasets.reader import Reader
from faceanon_engine.engine.datasets.sample import sample_at
from faceanon_engine.engine.images.pixels import from_uint8
from faceanon_engine.engine.method.pairing import NearestNeighbours
from faceanon_engine.engine.method.pool import Pool
from faceanon_engine.engine.method.preset import get_preset
from faceanon_engine.engine.method.stages import embed_attributes, embed_identity, invert_images
from faceanon_engine.engine.sessions.runs import sessions_of_folder

folder, pool, out, *files = (Path(argument) for argument in sys.argv[1:])
sessions, preset = sessions_of_folder(folder), get_preset("falco")
images = from_uint8(np.stack([Reader("never", 64).read(sample_at(file)).faces[0].pixels for file in files]))
embedding = embed_attributes(sessions, images, preset.pairing_real)
nearest = NearestNeighbours(Pool.open(pool).embedding(preset.pairing_generated)).search(embedding)
identity = embed_identity(sessions, images, preset.identity_real)
np.savez(out, attributes=embedding, identity=identity, codes=invert_images(sessions, images), neighbours=nearest.ids)
print([name for name in sys.modules if name.partition(".")[0] == "torch"][:3])
"""


def test_extraction_inversion_and_pairing_need_no_torch(
    demo: Bundle, home: Path, originals: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEANON_HOME", str(tmp_path))
    stages = Opened(demo)
    pool = stages.pool(PoolSpec(demo.digest, 24), batch_size=12)
    folder = EngineCache(home / "engines").graphs_folder(demo.digest)
    out = tmp_path / "found.npz"
    run = subprocess.run(
        [sys.executable, "-c", TORCH_FREE, folder, pool.path, out, *SAMPLES[:6]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout.strip()) == (0, "[]"), run.stdout + run.stderr
    with np.load(out) as found:
        assert shares(found["attributes"], stages.embed_attributes(originals[:6])) < 5e-5
        assert shares(found["identity"], stages.embed_identity(originals[:6])) < 5e-5
        assert shares(found["codes"], stages.invert(originals[:6])) < 5e-5
        expected = stages.pair(originals[:6], pool)
        np.testing.assert_array_equal(found["neighbours"], expected.ids)


def test_the_commands_need_no_torch_either(home: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from faceanon_engine.cli.main import cli\n"
        "try: cli.main(sys.argv[1:], prog_name='x')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print('torch' in sys.modules)"
    )
    options = ["--bundle", "demo", "--backend", "onnxruntime", "--device", "cpu", "--align", "never"]
    for command in ("extract", "invert"):
        run = subprocess.run(
            [sys.executable, "-c", code, command, SAMPLES[0], tmp_path / f"{command}.npz", *options],
            capture_output=True,
            text=True,
            env=os.environ | {"FACEANON_HOME": str(home)},
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert run.stdout.splitlines()[-1] == "False"
        assert "onnxruntime" in run.stderr
        assert "CPUExecutionProvider" in run.stderr


def test_graphs_of_different_bundles_are_not_mixed(demo: Bundle, home: Path, originals: Any, tmp_path: Path) -> None:
    source = EngineCache(home / "engines").graphs_folder(demo.digest)
    for file in source.glob("i*-fp32.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    record = tmp_path / "identity-fp32.json"
    record.write_text(record.read_text().replace(demo.digest, "0" * 64))
    sessions = sessions_of_folder(tmp_path)
    stages.invert_images(sessions, originals[:1])
    with pytest.raises(UserError, match="different bundles"):
        stages.embed_identity(sessions, originals[:1], FALCO.identity_real)


def test_a_stage_that_is_not_built_says_how_to(demo: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEANON_HOME", str(tmp_path))
    sessions = sessions_of_bundle(demo, settle("onnxruntime", "fp32", "cpu"))
    with pytest.raises(UserError, match="faceanon-engine build --bundle demo --networks inverter"):
        stages.invert_images(sessions, np.zeros((1, 3, 64, 64), np.float32))


def test_what_prepares_a_backend_can_be_sent_to_the_process_of_a_device() -> None:
    said: list[str] = []
    sent = pickle.loads(pickle.dumps(prepare.telling(lambda text: said.append(text))))
    assert sent is prepare.prepare
