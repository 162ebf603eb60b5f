"""Configs and experiment plans by name, from a checkout or from an installed package."""

from .model_zoo import (
    find_config_file,
    find_plan_file,
    get_config,
    get_config_file,
    list_configs,
    list_plans,
)
