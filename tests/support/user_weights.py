"""Token weights as users may write them, good and bad: the text of a module ``my_weights``."""

from recipe.egrsd.token_weight import INPUTS, SETTINGS

KEY = "algorithm.egrsd.token_weight"
FIVE = ", ".join(INPUTS)
SOURCE = f"""
import torch
from recipe.egrsd.method.weights import TokenWeights, token_weights

five = 5
parameter = torch.nn.Parameter(torch.ones(()))

def halved({FIVE}, *, clip_range):  # 0.5 and 1.2 by position, which padding does not move
    late = torch.arange(teacher_mask.size(-1), device=teacher_mask.device) >= 2
    return torch.where(late, 1.0 + clip_range, 0.5).expand(teacher_mask.shape)

def edits({FIVE}):  # its copies, not the batch
    for tensor in ({FIVE}):
        tensor.fill_(0)
    return torch.ones_like(advantages)

def gated({FIVE}, *, gamma):
    gate = (1 - gamma * teacher_entropy / 3).clamp(0.5, 1)
    return TokenWeights(token=2 * gate, gate=gate)

def everything({FIVE}, **settings):
    assert list(settings) == {list(SETTINGS)}
    return token_weights({FIVE}, **settings)

def needs_tau({FIVE}, *, tau):
    return advantages

def four(student_log_probs, teacher_log_probs, teacher_entropy, advantages):
    return advantages

def swapped(teacher_log_probs, student_log_probs, teacher_entropy, advantages, teacher_mask):
    return (teacher_log_probs - student_log_probs).exp()

def raises({FIVE}):
    return {{}}["tau"]

def number({FIVE}):
    return 1.0

def rows_only({FIVE}):
    return advantages[:, :1]

def double({FIVE}):
    return torch.ones_like(advantages, dtype=torch.float64)

def elsewhere({FIVE}):
    return torch.ones_like(advantages, device="meta")

def from_the_cpu({FIVE}):
    return (torch.arange(advantages.size(-1)) >= 2) * torch.ones_like(advantages)

def on_the_cpu({FIVE}):
    return torch.ones(advantages.shape)

def adds_on_the_cpu({FIVE}):
    return TokenWeights(token=torch.ones_like(advantages), added=torch.zeros(advantages.shape))

def asks_numbers({FIVE}):
    return torch.ones_like(advantages) if teacher_mask.any() else advantages

def of_a_parameter({FIVE}):
    return parameter * torch.ones_like(advantages)

def per_advantage({FIVE}):
    return 1 + 0.1 / advantages

def reads_padding({FIVE}):
    return torch.ones_like(advantages) * teacher_entropy.mean(-1, keepdim=True)

def of_the_batch({FIVE}):
    return torch.ones_like(advantages) * teacher_entropy[teacher_mask].mean()

def by_length({FIVE}):
    return torch.full_like(advantages, 1 / teacher_mask.size(-1))

def bad_part({FIVE}):
    return TokenWeights(token=torch.ones_like(advantages), gate=advantages[:, :1])

def fails_late({FIVE}):
    return torch.where(teacher_log_probs < -2, torch.inf, 1.0)
"""
