"""Who has not asked for EGRSD: another application of hydra is unaffected, and the plugin imports nothing heavy."""

from bare_shell import run

ANOTHER_APPLICATION = """
import verl  # loads the plugin
import hydra

@hydra.main(config_path="conf", config_name="config", version_base=None)
def main(config):
    pass

main()
"""


def test_another_hydra_application_is_unaffected(tmp_path):
    (tmp_path / "application.py").write_text(ANOTHER_APPLICATION)
    options = tmp_path / "conf" / "algorithm"
    options.mkdir(parents=True)
    (options / "sgd.yaml").write_text("lr: 1\n")
    (tmp_path / "conf" / "config.yaml").write_text("defaults: [_self_, algorithm: sgd]\nseed: 0\n")
    # --cfg all also prints hydra.runtime.config_sources, the search path
    command = ["application.py", "--cfg", "all"]
    with_plugin, without = (run(command, tmp_path, VERL_USE_EXTERNAL_PLUGINS=policy) for policy in ("auto", "none"))
    assert with_plugin.returncode == without.returncode == 0, with_plugin.stderr + without.stderr
    assert "config_sources" in without.stdout
    assert with_plugin.stdout == without.stdout


def test_the_plugin_imports_hydra_only(tmp_path):
    code = "import sys, recipe.egrsd.hydra_plugin; print(*{name.split('.')[0] for name in sys.modules})"
    process = run(["-c", code], tmp_path)
    assert process.returncode == 0, process.stderr
    heavy = {"numpy", "ray", "torch", "transfer_queue", "transformers", "verl", "vllm", "wrapt"}
    assert heavy & set(process.stdout.split()) == set()
