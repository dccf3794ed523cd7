"""What of the menu answers a symptom of over-optimization, for a run's setting.

Each function returns what to lay over the same command; nothing where it does not fit.
"""

from __future__ import annotations

from rewardlab.report.run_figures import Setting
from rewardlab.runs.read import at

MENU = "--config configs/menu/"


def number(setting: Setting, name: str, otherwise: float) -> float:
    """Return a number that the loop was given, or another."""
    value = setting.arguments.get(name)
    return float(value) if isinstance(value, int | float) else otherwise


def hold(setting: Setting) -> tuple[str, ...]:
    """Return what holds the policy nearer to its reference."""
    if setting.loop == "PPO":
        weight = number(setting, "kl_weight", 0.0)
        return (f"{setting.flag}kl_weight={2 * weight or 0.25:g}",)
    if setting.loop == "DPO":
        return (f"{setting.flag}beta={3 * number(setting, 'beta', 0.1):g}",)
    return ()


def hold_pictures(setting: Setting) -> tuple[str, ...]:
    """Return what holds a generator of pictures nearer to its targets or its start."""
    if setting.loop == "DPO":
        return (f"{setting.flag}beta={10 * number(setting, 'beta', 100.0):g}",)
    return stop(setting)


def stop(setting: Setting) -> tuple[str, ...]:
    """Return a guard that stops, or smaller steps where the run has one already."""
    if setting.command != "rounds":
        return ()
    return half_the_rate(setting) if _is_guarded(setting) else (f"{MENU}guard_stop.yaml",)


def _is_guarded(setting: Setting) -> bool:
    for callback in setting.callbacks:
        is_guard = str(at(callback, "class_path")).endswith(".Guard")
        if is_guard and at(callback, "init_args", "stop") is not False:
            return True
    return False


def bound(setting: Setting) -> tuple[str, ...]:
    """Return PAR."""
    if setting.loop != "PPO":
        return ()
    if setting.command == "rounds":
        return (f"{MENU}par.yaml",)
    return (f"{setting.flag}shaping.par=1.0",)


def calibrate_length(setting: Setting) -> tuple[str, ...]:
    if setting.rounds == "AdvRMRounds":
        return (f"{MENU}length_calibration.yaml",)
    if setting.loop == "PPO":
        return (f"{setting.flag}shaping.length_penalty=1.0",)
    return ()


def soft_minimum(setting: Setting) -> tuple[str, ...]:
    if setting.rounds == "AdvRMRounds":
        return (f"{MENU}soft_minimum.yaml",)
    return stop(setting)


def other_backbone(setting: Setting) -> tuple[str, ...]:
    if setting.rounds == "AdvRMRounds":
        return (f"{MENU}independent_members.yaml", f"{MENU}independent_witness.yaml")
    return ()


def tether(setting: Setting) -> tuple[str, ...]:
    if setting.rounds == "AdvRMRounds":
        return ("--config configs/adv_rm/topics_novelty.yaml",)
    if setting.rounds == "GANRMRounds":
        return hold_pictures(setting)
    return hold(setting)


def bottleneck(setting: Setting) -> tuple[str, ...]:
    """Return members with InfoRM's head."""
    return (f"{MENU}bottleneck.yaml",) if setting.rounds == "AdvRMRounds" else ()


def norm_guard(setting: Setting) -> tuple[str, ...]:
    if setting.loop in ("DPO", "VelocityMatching", "SFT"):
        return (f"{setting.flag}norm_guard={10 * number(setting, 'norm_guard', 0.0) or 10:g}",)
    return stop(setting) or half_the_rate(setting)


def vary(setting: Setting) -> tuple[str, ...]:
    if setting.loop == "PPO" and setting.command == "rounds":
        return (f"{MENU}diversity.yaml",)
    return hold(setting)


def smaller_steps(setting: Setting) -> tuple[str, ...]:
    return half_the_rate(setting) if setting.loop == "PPO" else ()


def half_the_rate(setting: Setting) -> tuple[str, ...]:
    rate = at(setting.arguments, "optimizer", "init_args", "lr")
    if not isinstance(rate, int | float):
        return ()
    return (f"{setting.flag}optimizer.init_args.lr={rate / 2:g}",)


def chi_po(setting: Setting) -> tuple[str, ...]:
    if setting.loop != "DPO":
        return ()
    if setting.command == "rounds":
        return (f"{MENU}chi_po.yaml",)
    return (f"{setting.flag}link=mixed-chi2", f"{setting.flag}beta=0.1")


def heavier_correction(setting: Setting) -> tuple[str, ...]:
    if setting.rounds == "AdvRMRounds":
        return (f"--rounds.init_args.online.weight={2 * setting.correction:g}",)
    return ()
