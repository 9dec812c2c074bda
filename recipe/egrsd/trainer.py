"""verl's V1 trainer plus the steps that EGRSD adds. Methods stand in the order in which a run calls them."""

from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
import transfer_queue as tq
from omegaconf import open_dict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1 import PPOTrainer, PPOTrainerColocateAsync, PPOTrainerSync, register_trainer
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.profiler import marked_timer

from recipe.egrsd import batches, checkpoint, cpu, parts, teaching, token_weight
from recipe.egrsd.config import contents, derived, resuming, schema, validation, verl_version
from recipe.egrsd.cpu import precision
from recipe.egrsd.loss import ROLLOUT_DISTANCE_MAX, ROLLOUT_DISTANCE_MEAN, SUM_PREFIX, training_loss
from recipe.egrsd.machines import architectures, attention, models, nodes
from recipe.egrsd.method.advantage import RunningBaseline, shaped_reward
from recipe.egrsd.privilege import columns, dataset, prefix
from recipe.egrsd.privilege.rows import last_rows, require_counted_once, rollout_of
from recipe.egrsd.rollout.watchdog import Watchdog
from recipe.egrsd.teacher.kinds import Teacher
from recipe.egrsd.teacher.worker import EgrsdWorker
from recipe.egrsd.watch import tokens
from recipe.egrsd.watch.alarms import Alarms
from recipe.egrsd.watch.metrics import reward_metrics
from recipe.egrsd.watch.sums import token_means


class EgrsdMixin(PPOTrainer):
    """What EGRSD adds to any of verl's trainers; everything not overridden here is verl's."""

    def __init__(self, config):
        self.egrsd = validation.validate(config)
        parts.check(config, self.egrsd)
        self.resumed_from = checkpoint.folder_to_resume(config)
        left_out = contents.remark(config, resumes=self.resumed_from is not None)
        print(f"EGRSD {checkpoint.beginning(config.trainer, self.resumed_from)}{left_out}.")
        self.models = models.located(config)
        if self.resumed_from:
            models.refuse_other_commits(checkpoint.load(self.resumed_from).get("commits", {}), self.models)
        nodes.check(self.models, self.egrsd.token_weight)
        models.use_folders(config, self.models)
        prefix.use(config)
        print(*(f"EGRSD reads {model}." for model in self.models), sep="\n")
        print(f"EGRSD {token_weight.said(self.egrsd.token_weight)}.")
        print(attention.settle(config, nodes.ask_gpu_nodes))
        if slow := precision.remark(config):
            print(slow)
        self.baseline = RunningBaseline(warmup_steps=self.egrsd.warmup_steps)
        self.alarms = Alarms(self.egrsd)
        self.step_rewards: Any = None  # (rollouts,) of the step under way
        self.student_scores_needed = derived.student_scores_needed(config)
        with open_dict(config):
            # verl branches on its own mode names (trainer_base.py:129); ours only had to get us here.
            config.trainer.v1.trainer_mode = schema.TRAINER_MODES[config.trainer.v1.trainer_mode]
            if self.egrsd.advantage == "running":
                ADV_ESTIMATOR_REGISTRY[config.algorithm.adv_estimator] = self._running_advantage
            else:
                config.algorithm.adv_estimator = self.egrsd.advantage
            if not self.student_scores_needed:
                config.algorithm.rollout_correction = None  # nothing but metrics here, of a pass that does not run
        super().__init__(config)
        self.watchdog = Watchdog(self)
        if cpu.enabled():
            self.replay_buffer.poll_interval = 0.1  # verl's 2 s between looks is longer than a step of a tiny model

    def _init_resource_pool_mgr(self):
        """The teacher may need verl's reference worker, which verl itself would build for a KL term only."""
        super()._init_resource_pool_mgr()
        role = next((r for r in (Role.ActorRolloutRef, Role.ActorRollout) if r in self.role_worker_mapping), None)
        if role is None:
            planned = [role.name for role in self.role_worker_mapping]
            raise RuntimeError(
                f"verl plans workers for {planned}, and EGRSD builds on one that both trains and generates; install "
                f"{verl_version.required()}, whose trainers plan it."
            )
        self.role_worker_mapping.pop(role)
        pool = self.mapping.pop(role)
        role = Role.ActorRolloutRef if derived.uses_reference(self.config) else role
        self.role_worker_mapping[role], self.mapping[role] = ray.remote(_worker_cls()), pool

    def _init_dataloader(self):
        super()._init_dataloader()
        rows: Any = self.train_dataset
        dataset.check_rows(rows)
        columns.require_batch(len(rows), self.config.data, left=" left after filtering")
        if missing := columns.missing_steps(len(rows), self.config):
            print(missing)

    def on_init_end(self):
        actor_config = omega_conf_to_dataclass(self.config.actor_rollout_ref.actor)
        self.actor_rollout_wg.set_loss_fn(partial(training_loss, actor_config, self.egrsd))
        needed = self.student_scores_needed
        kept, taken = "keeps verl's old_log_prob pass", "takes log p_S from the training pass, the only one of a batch"
        print(f"EGRSD {kept}: {needed}." if needed else f"EGRSD {taken}.")
        with self.watchdog:
            super().on_init_end()

    def fit(self, agent_loop_manager):
        with self.watchdog:
            super().fit(agent_loop_manager)

    def _load_checkpoint(self):
        limits, said = architectures.scoring_limits(self.config)
        if said:
            print(said)
        knobs = {"uses_lora": derived.uses_lora(self.config), **limits}
        self.teacher = Teacher(self.egrsd.teacher, self.actor_rollout_wg, **knobs)  # from the initial weights
        super()._load_checkpoint()
        if self.resumed_from:
            state = checkpoint.load(self.resumed_from)
            self.baseline.load_state_dict(state["baseline"])
            self.alarms.load_state_dict(state["alarms"])
            self.teacher.load(self.resumed_from / "actor")

    def _step_once(self, *args, **kwargs):
        batch = super()._step_once(*args, **kwargs)
        self.teacher.follow(self.global_steps)
        self.baseline.update(self.step_rewards)  # after the step that used the old statistics, before its checkpoint
        return batch

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        # Rollouts of several rows fill more mini-batches than the config says.
        self.student_scores_needed = derived.student_scores_needed(self.config, len(batch.keys))
        return super()._compute_old_log_prob(self._in_chunks(batch), metrics) if self.student_scores_needed else batch

    def _compute_ref_log_prob(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        return super()._compute_ref_log_prob(self._in_chunks(batch), metrics)

    def _in_chunks(self, batch: KVBatchMeta) -> KVBatchMeta:
        """Asks the next pass, whatever it is, for scores without logits; score_student=always is verl's way."""
        batch.extra_info["egrsd_in_chunks"] = self.egrsd.score_student == "auto" or self.egrsd.pulls
        return batch

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        require_counted_once(batch.keys, self.egrsd.advantage)
        with marked_timer("teacher", self.timing_raw):
            knobs = {"step": self.global_steps, "tokenizer": self.tokenizer}
            self.of_batch, of_teacher = teaching.score(batch, self.teacher, self.egrsd, self.config, **knobs)
        metrics.update(of_teacher)
        self._shape_rewards(batch, metrics)
        return super()._compute_advantage(batch, metrics)  # its meta names every field that the workers may fetch

    def _shape_rewards(self, batch: KVBatchMeta, metrics: dict) -> None:
        """Scales ``rm_scores`` to the length-shaped reward and keeps one a rollout, padding aside, for the baseline."""
        data = batches.read(batch, "rm_scores", "response_mask")
        max_length = self.config.data.max_response_length
        scores = data["rm_scores"].to_padded_tensor(0.0).sum(-1)
        lengths = data["response_mask"].to_padded_tensor(0).sum(-1)
        last = last_rows(batch.keys)
        rewards = shaped_reward(scores, lengths, max_length=max_length, length_bonus=self.egrsd.length_bonus)[last]
        if self.egrsd.length_bonus > 0:  # scores are 0 or 1, so the shaped reward is the factor
            shaped = [row * reward for row, reward in zip(data["rm_scores"].unbind(), rewards, strict=True)]
            batches.write(batch, rm_scores=torch.nested.as_nested_tensor(shaped, layout=torch.jagged))
        counted = torch.tensor(batches.is_real(batch)) & (last == torch.arange(len(last)))
        truncated = data["response_mask"].offsets().diff() >= max_length
        self.step_rewards = rewards[counted]
        statistics = {"baseline_mean": self.baseline.mean, "baseline_std": self.baseline.std}
        problems = [rollout_of(key)[0] for key, counts in zip(batch.keys, counted.tolist(), strict=True) if counts]
        metrics.update(reward_metrics(self.step_rewards, truncated[counted], problems, **statistics))

    def _running_advantage(self, token_level_rewards, response_mask, **_):
        """The paper's baseline as an estimator of verl's: (B, T) rewards and mask -> (B, T) advantages and returns."""
        advantages = self.baseline.advantages(token_level_rewards.sum(-1)).unsqueeze(-1) * response_mask
        return advantages, advantages

    def _update_actor(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        mixing = self.egrsd.mixing_at(self.global_steps)
        if tokens.is_due(self.global_steps, self.egrsd.save_tokens_every):
            self._save_tokens(batch, mixing)
        # These reach every micro-batch, as the temperature does.
        batch.extra_info |= {f"egrsd_{name}": value for name, value in (self.of_batch | {"mixing": mixing}).items()}
        batch = super()._update_actor(self._in_chunks(batch), metrics)
        prefix = f"actor/{SUM_PREFIX}"
        sums = {name.removeprefix(prefix): metrics.pop(name) for name in list(metrics) if name.startswith(prefix)}
        means = token_means(sums)
        if "mixing" in token_weight.look_up(self.egrsd.token_weight).settings:
            means["egrsd/mixing"] = mixing
        distance = {
            f"training/{ROLLOUT_DISTANCE_MEAN}": means.pop(f"egrsd/{ROLLOUT_DISTANCE_MEAN}", None),
            f"training/{ROLLOUT_DISTANCE_MAX}": metrics.pop(f"actor/{ROLLOUT_DISTANCE_MAX}", None),
        }
        known = metrics.keys()  # verl's own, if its old_log_prob pass has run
        metrics.update(
            means | {name: value for name, value in distance.items() if value is not None and name not in known}
        )
        return batch

    def _save_tokens(self, batch: KVBatchMeta, mixing: float) -> None:
        keys = tokens.chosen(batch.keys, batches.is_real(batch))
        data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=tokens.fields(self.egrsd))
        if self.student_scores_needed:
            scored = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["old_log_probs"])[
                "old_log_probs"
            ]
        else:  # kept out of the batch: the loss would train on old_log_probs there, and looking must change nothing
            rows = data["prompts"].unbind(), data["responses"], data["response_mask"]
            scored = self.teacher.score_student(
                *rows, temperature=self.config.actor_rollout_ref.rollout.temperature, names=keys
            )
        data["student_log_probs"] = scored
        settings = {"egrsd": self.egrsd, **self.of_batch, "mixing": mixing}
        folder = Path(self.config.trainer.default_local_dir) / "tokens"
        tokens.save(folder, data, step=self.global_steps, tokenizer=self.tokenizer, **settings)

    def _compute_metrics(self, batch: KVBatchMeta, metrics: dict, *args, **kwargs):
        super()._compute_metrics(batch, metrics, *args, **kwargs)
        for warning in self.alarms.check(metrics):
            print(warning)

    def _save_checkpoint(self):
        """Our state first: verl's marker of a complete checkpoint is the last thing that is written."""
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        with checkpoint.named_if_it_fails(folder):
            # verl computes a step's metrics after its checkpoint, so that the alarms' start lacks the step that is
            # saved.
            state = {"baseline": self.baseline.state_dict(), "alarms": self.alarms.state_dict()}
            state["commits"] = {model.key: model.commit for model in self.models if model.commit}
            checkpoint.save(folder, state | {"method": resuming.method_of(self.config)})
            self.teacher.save(folder / "actor")  # verl prunes this folder
            super()._save_checkpoint()


@register_trainer("egrsd_sync")
class EgrsdSync(EgrsdMixin, PPOTrainerSync):
    """EGRSD on verl's synchronous trainer."""


@register_trainer("egrsd_colocate_async")
class EgrsdColocateAsync(EgrsdMixin, PPOTrainerColocateAsync):
    """EGRSD with partial rollouts: a response may hold tokens of several policies; log p_S is always the current
    one's."""


def _worker_cls() -> type:
    if cpu.enabled():
        from recipe.egrsd.cpu.engine import CpuEgrsdWorker

        return CpuEgrsdWorker
    return EgrsdWorker
