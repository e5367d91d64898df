import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "text_twitter2017.py"


def test_it_runs_at_toy_size_and_leaves_the_record_alone(shared, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("text_twitter2017", SCRIPT)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    before = benchmark.RECORD.read_text()
    data = str(shared / "data" / "twitter2017")
    scores = benchmark.main(["--data", data, "--posts", "32", "--epochs", "1", "--threads", "1"])
    assert scores.posts == 32
    assert "| test |" in capsys.readouterr().out
    assert benchmark.RECORD.read_text() == before
