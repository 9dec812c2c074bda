"""verl's asynchronous colocated trainer under EGRSD: the checks of the synchronous runs, and a resume with prompts
in flight."""

import pytest
from run_checks import (
    check_every_documented_metric_is_logged_and_no_other,
    check_metrics_are_those_of_the_paper_oracle,
    check_teacher_is_the_initial_model_under_the_privileged_prompt,
)
from runs import COIN_REWARD, DESCENT, LORA, Run, good, run

pytestmark = [pytest.mark.slow, pytest.mark.long]

COLOCATE = [
    *COIN_REWARD, "trainer.v1.trainer_mode=egrsd_colocate_async", "trainer.total_training_steps=4",
    "trainer.save_freq=2",
]  # fmt: skip
STUDENTS = {"full": DESCENT, "lora": LORA}


@pytest.fixture(scope="module", params=STUDENTS)
def student(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def colocate(student, inputs, tmp_path_factory) -> Run:
    return good(run(inputs, tmp_path_factory.mktemp("colocate"), [*COLOCATE, *STUDENTS[student]]))


def test_teacher_weights_and_metrics(colocate, inputs):
    check_teacher_is_the_initial_model_under_the_privileged_prompt(colocate, inputs)
    check_metrics_are_those_of_the_paper_oracle(colocate)
    check_every_documented_metric_is_logged_and_no_other(colocate)
    assert len(colocate.metrics) == 4
    assert all(step["actor/grad_norm"] > 0 for step in colocate.metrics)


def test_it_resumes_with_its_baseline(colocate, student, inputs, tmp_path):
    resume = [
        "trainer.resume_mode=resume_path",
        f"trainer.resume_from_path={colocate.folder}/checkpoints/global_step_2",
    ]
    resumed = good(run(inputs, tmp_path, [*COLOCATE, *STUDENTS[student], *resume]))
    assert [step["training/global_step"] for step in resumed.metrics] == [3, 4]
    assert resumed.probe(3)["baseline"] == colocate.probe(3)["baseline"]
