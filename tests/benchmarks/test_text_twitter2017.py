import pytest

from tests.scripts import load


@pytest.mark.parametrize("head", ["text", "gifr", "iterative"])
def test_it_runs_at_toy_size_and_leaves_the_records_alone(shared, capsys, head):
    benchmark = load("benchmarks/text_twitter2017.py")
    before = {path: path.read_text() for path in benchmark.RESULTS.iterdir()}
    data = str(shared / "data" / "twitter2017")
    sizes = ["--posts", "32", "--epochs", "1", "--threads", "1"]
    scores = benchmark.main(["--data", data, "--head", head, *sizes])
    assert scores.posts == 32
    assert "| test |" in capsys.readouterr().out
    assert {path: path.read_text() for path in benchmark.RESULTS.iterdir()} == before
