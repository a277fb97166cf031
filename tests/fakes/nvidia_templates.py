"""Repositories in the shape of NVIDIA's templates: every variable of the contract, unfilled.

Written from the contract, in an order and a layout of our own; `fill` does what NVIDIA's
fill_template.py does: it replaces what it is given and leaves the rest without a word.
"""

import json
from string import Template

from builders.render.contract import contracts
from fakes.checkpoints import DEMO, TOKENIZER_FILES
from fakes.trtllm.checkpoints import write_engine

FAMILY = "inflight_batcher_llm"
HEADS = {
    "preprocessing": 'backend: "python"',
    "tensorrt_llm": 'backend: "${triton_backend}"',
    "postprocessing": 'backend: "python"',
    "ensemble": 'platform: "ensemble"',
    "tensorrt_llm_bls": 'backend: "python"',
}
COUNTS = {
    "preprocessing": "${preprocessing_instance_count}",
    "postprocessing": "${postprocessing_instance_count}",
    "tensorrt_llm_bls": "${bls_instance_count}",
    "tensorrt_llm": "1",
}
REQUIRED = {
    "triton_backend": "tensorrtllm",
    "triton_max_batch_size": 8,
    "max_queue_delay_microseconds": 0,
    "max_queue_size": 0,
    "preprocessing_instance_count": 1,
    "postprocessing_instance_count": 1,
    "bls_instance_count": 8,
    "decoupled_mode": "true",
    "batching_strategy": "inflight_fused_batching",
    "logits_datatype": "TYPE_FP32",
    "encoder_input_features_data_type": "TYPE_FP16",
    "prompt_embedding_table_data_type": "TYPE_FP16",
    "engine_dir": "engines/llama",
    "tokenizer_dir": "tokenizer",
    "tensorrt_llm_model_name": "tensorrt_llm",
}


def write(root, *, twice=False, **values):
    """Write the five models; variables without a value stay as they are."""
    for part, contract in contracts(FAMILY).items():
        text = Template(_text(part, contract, twice)).safe_substitute(values)
        (root / part / "1").mkdir(parents=True)
        (root / part / "config.pbtxt").write_text(text)
        if part in {"preprocessing", "postprocessing", "tensorrt_llm_bls"}:
            (root / part / "1" / "model.py").write_text("# NVIDIA's own\n")
    return root


def filled(root, **values):
    """Write a repository that serves: required variables filled, engine and tokenizer there."""
    write(root, **REQUIRED | values)
    write_engine(root / "engines" / "llama")
    (root / "engines" / "config.pbtxt").write_text('name: "engines" backend: "identity"\n')
    (root / "engines" / "1").mkdir()
    (root / "tokenizer" / "1").mkdir(parents=True)
    (root / "tokenizer" / "config.pbtxt").write_text('name: "tokenizer" backend: "identity"\n')
    for name in TOKENIZER_FILES:
        (root / "tokenizer" / name).write_bytes((DEMO / name).read_bytes())
    return root


def llm_api(root, *, pbtxt="", count=1, **yaml):
    """Write NVIDIA's LLM API repository: the YAML says what streaming is, the pbtxt nothing."""
    contract = contracts("llmapi")["tensorrt_llm"]
    home = root / "tensorrt_llm"
    (home / "1").mkdir(parents=True)
    (root / "tensorrt_llm" / "1" / "checkpoint").mkdir()
    (home / "1" / "model.py").write_text("# NVIDIA's own\n")
    lines = [
        'name: "tensorrt_llm"',
        'backend: "python"',
        pbtxt,
        *_tensors("input", contract.inputs),
    ]
    lines += _tensors("output", contract.outputs)
    lines += [f"instance_group [ {{ count: {count} kind: KIND_CPU }} ]"]
    (home / "config.pbtxt").write_text("\n".join(lines) + "\n")
    given = {
        "model": "checkpoint",
        "triton_config": {"max_batch_size": 0, "decoupled": True},
    } | yaml
    said = [f"{key}: {json.dumps(value)}" for key, value in given.items() if value is not None]
    (home / "1" / "model.yaml").write_text("\n".join(said) + "\n")
    return root


def _text(part, contract, twice):
    lines = [f'name: "{part}"', HEADS[part], "max_batch_size: ${triton_max_batch_size}"]
    if "decoupled_mode" in contract.variables:
        lines += ["model_transaction_policy {", "  decoupled: ${decoupled_mode}", "}"]
    if "max_queue_size" in contract.variables:
        lines += [
            "dynamic_batching {",
            "  preferred_batch_size: [ ${triton_max_batch_size} ]",
            "  max_queue_delay_microseconds: ${max_queue_delay_microseconds}",
            "  default_queue_policy: { max_queue_size: ${max_queue_size} }",
            "}",
        ]
    lines += _tensors("input", contract.inputs) + _tensors("output", contract.outputs)
    if twice and part == "ensemble":  # as NVIDIA's own ensemble has it
        lines += ["output [", '  { name: "kv_cache_alloc_total_blocks"', "  data_type: TYPE_INT32"]
        lines += ["  dims: [ 1 ] }", "]"]
    if contract.steps:
        lines += _steps(contract.steps)
    if part in COUNTS:
        lines += [f"instance_group [ {{ count: {COUNTS[part]} kind : KIND_CPU }} ]"]
    for key, parameter in contract.parameters.items():
        value = f"${{{parameter.variable}}}" if parameter.variable else parameter.fixed
        lines += ["parameters: {", f'  key: "{key}"', "  value: {", f'    string_value: "{value}"']
        lines += ["  }", "}"]
    return "\n".join(lines) + "\n"


def _tensors(kind, tensors):
    lines = [f"{kind} ["]
    for name, tensor in tensors.items():
        shape = ", ".join(map(str, tensor.dims))
        lines += ["  {", f'    name: "{name}"', f"    data_type: {tensor.data_type}"]
        lines += [f"    dims: [ {shape} ]"]
        if tensor.reshape is not None:
            lines += ["    reshape: { shape: [ ] }"]
        lines += ["    optional: true"] if tensor.optional else []
        lines += ["    allow_ragged_batch: true"] if tensor.ragged else []
        lines += ["  },"]
    lines[-1] = "  }"
    return [*lines, "]"]


def _steps(steps):
    lines = ["ensemble_scheduling {", "  step ["]
    for step in steps:
        lines += ["    {", f'      model_name: "{step.model}"', "      model_version: -1"]
        for kind, pairs in (("input_map", step.inputs), ("output_map", step.outputs)):
            for key, value in pairs.items():
                lines += [f'      {kind} {{ key: "{key}" value: "{value}" }}']
        lines += ["    },"]
    lines[-1] = "    }"
    return [*lines, "  ]", "}"]
