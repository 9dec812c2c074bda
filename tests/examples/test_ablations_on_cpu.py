"""examples/ablations.sh: its runs are the paper's and ours, a dry run starts none, a failing one stops no other."""

from paper import PAPER
from shell_scripts import config_of, shell

from recipe.egrsd.config import schema, validation


def test_ablations_are_the_papers_and_ours(arguments):
    runs = [config_of(given) for given in arguments("ablations.sh", "trainer.logger=[console]")]
    egrsds = {run.trainer.experiment_name.removeprefix("ablation-"): validation.validate(run) for run in runs}
    assert len(egrsds) == len(runs)
    assert all(run.trainer.logger == ["console"] for run in runs)
    sweep = {name.removeprefix("gamma-"): egrsd for name, egrsd in egrsds.items() if name.startswith("gamma-")}
    assert {name: egrsd.gamma for name, egrsd in sweep.items()} == {
        name: float(name) for name in PAPER["gamma_sweep"]["Avg"]
    }
    windows = [egrsd.window for name, egrsd in egrsds.items() if name.startswith("window-")]
    assert windows == [int(window) for window in PAPER["lookahead"]["Avg_AvgLen"]]
    teachers = {
        f"{e.teacher.kind}_{e.teacher.sync_every or e.teacher.ema_decay or ''}".rstrip("_") for e in egrsds.values()
    }
    assert teachers == set(PAPER["teacher_update"]["Avg"])
    assert {egrsd.clip_range for egrsd in egrsds.values()} == {0, 0.1, 0.2, 0.4}
    assert egrsds["length_bonus-0"].length_bonus == 0
    made_in_a_step = {*schema.PEER_PRIVILEGES, *schema.FEEDBACK_PRIVILEGES}
    of_other_methods = {"concise", "crosslingual", "answer_contrast", *made_in_a_step}
    assert {egrsd.privilege for egrsd in egrsds.values()} == {*schema.PRIVILEGES} - of_other_methods


def test_a_dry_run_prints_and_starts_nothing(arguments, tmp_path):
    process = shell("ablations.sh", "a=b", cwd=tmp_path, DRY_RUN=1, SWEEPS="gamma", GAMMAS="0.5", RUN="run.sh")
    assert process.stdout == "NAME=ablation-gamma-0.5 ALGORITHM=egrsd GAMMA=0.5 run.sh a=b\n"


def test_a_failing_run_is_named_and_the_others_go_on(tmp_path):
    process = shell("ablations.sh", cwd=tmp_path, SWEEPS="gamma", GAMMAS="0.1 0.2", PYTHON="/bin/false")
    assert process.returncode == 1
    assert process.stderr == "failed: gamma-0.1 gamma-0.2\n"
    assert shell("ablations.sh", cwd=tmp_path, SWEEPS="gama").returncode == 2
