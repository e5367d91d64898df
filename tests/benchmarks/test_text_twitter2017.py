import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "text_twitter2017.py"


@pytest.mark.parametrize("head", ["text", "gifr", "iterative"])
def test_it_runs_at_toy_size_and_leaves_the_records_alone(shared, capsys, head):
    spec = importlib.util.spec_from_file_location("text_twitter2017", SCRIPT)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    before = {path: path.read_text() for path in benchmark.RESULTS.iterdir()}
    data = str(shared / "data" / "twitter2017")
    sizes = ["--posts", "32", "--epochs", "1", "--threads", "1"]
    scores = benchmark.main(["--data", data, "--head", head, *sizes])
    assert scores.posts == 32
    assert "| test |" in capsys.readouterr().out
    assert {path: path.read_text() for path in benchmark.RESULTS.iterdir()} == before
