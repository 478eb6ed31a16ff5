"""`make quick` runs a test of every file, but for those whose every test takes seconds."""

from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
WHOLE_PROCESSES = {
    "analysis/explain/lrp/test_zennit.py",
    "analysis/test_analyse_kill.py",
    "extract/store/test_extraction_kill.py",
    "flows/test_agreement.py",
    "flows/test_cluster_kill.py",
    "flows/test_demo.py",
    "flows/test_other_s3.py",
    "flows/test_postgres.py",
    "flows/test_remote_images.py",
    "flows/test_run_kill.py",
    "flows/test_sequences.py",
    "flows/test_serving.py",
    "flows/test_soak.py",
    "serve/test_ask.py",
    "serve/test_browser.py",
    "serve/test_gestures.py",
    "serve/test_report_on_a_phone.py",
    "test_foreign_folder.py",
    "test_notebook.py",
}
"""Files of tests that train, or start and kill processes, or drive a browser."""


@pytest.mark.quick
def test_every_file_has_a_quick_test():
    without = {
        path.relative_to(TESTS).as_posix()
        for path in TESTS.rglob("test_*.py")
        if "@pytest.mark.quick" not in path.read_text(encoding="utf-8")
    }
    assert without == WHOLE_PROCESSES
