"""What the operators of a tape mean: which only reshape, which are linear, which normalise, which are nonlinear."""

from __future__ import annotations

# the same numbers in another shape, order or copy
VIEWS = frozenset(
    {
        "view",
        "_unsafe_view",
        "reshape",
        "permute",
        "transpose",
        "t",
        "contiguous",
        "clone",
        "_to_copy",
        "alias",
        "detach",
        "unsqueeze",
        "squeeze",
        "flatten",
        "unflatten",
        "expand",
        "lift_fresh",
        "lift_fresh_copy",
        "movedim",
        "swapaxes",
        "view_as",
        "native_dropout",
        "dropout",
        "_reshape_alias",
    }
)
PADS = frozenset({"constant_pad_nd", "reflection_pad2d", "replication_pad2d", "pad"})
ARITHMETIC = frozenset({"add", "sub", "rsub", "mul", "div"})

FUSED_NORMS = {
    "native_batch_norm": "BatchNorm",
    "_native_batch_norm_legit": "BatchNorm",
    "_native_batch_norm_legit_no_training": "BatchNorm",
    "_batch_norm_with_update": "BatchNorm",
    "_batch_norm_no_update": "BatchNorm",
    "cudnn_batch_norm": "BatchNorm",
    "miopen_batch_norm": "BatchNorm",
    "batch_norm": "BatchNorm",
    "native_layer_norm": "LayerNorm",
    "layer_norm": "LayerNorm",
    "native_group_norm": "GroupNorm",
    "group_norm": "GroupNorm",
    "instance_norm": "InstanceNorm",
    "_fused_rms_norm": "RMSNorm",
    "rms_norm": "RMSNorm",
}
REDUCTIONS = frozenset({"mean", "var", "var_mean", "std", "std_mean", "sum", "linalg_vector_norm", "norm"})
DIVISIONS = frozenset({"div", "rsqrt", "sqrt", "reciprocal", "pow"})

# these decide, and pass no numbers on
COMPARISONS = frozenset(
    {"gt", "lt", "ge", "le", "eq", "ne", "logical_not", "logical_and", "bitwise_not", "bitwise_and"}
)

# nonlinear operators, each with the name of the module that does the same
NONLINEARITIES = {
    "relu": "ReLU",
    "hardtanh": "Hardtanh",
    "relu6": "ReLU6",
    "leaky_relu": "LeakyReLU",
    "rrelu_with_noise": "RReLU",
    "prelu": "PReLU",
    "_prelu_kernel": "PReLU",
    "silu": "SiLU",
    "gelu": "GELU",
    "hardswish": "Hardswish",
    "hardsigmoid": "Hardsigmoid",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "elu": "ELU",
    "celu": "CELU",
    "selu": "SELU",
    "mish": "Mish",
    "softplus": "Softplus",
    "log_sigmoid_forward": "LogSigmoid",
    "threshold": "Threshold",
    "softshrink": "Softshrink",
    "hardshrink": "Hardshrink",
    "glu": "GLU",
}
# nonlinear, but they only name an activation together with others, or with their bounds
NONLINEAR_PARTS = frozenset(
    {
        "clamp",
        "clamp_min",
        "clamp_max",
        "erf",
        "exp",
        "log",
        "log1p",
        "expm1",
        "abs",
        "maximum",
        "minimum",
        "where",
        "sin",
        "cos",
        "square",
    }
)
ARITHMETIC_PARTS = frozenset(
    {
        "add",
        "sub",
        "rsub",
        "mul",
        "div",
        "neg",
        "pow",
        "sqrt",
        "reciprocal",
        "gt",
        "lt",
        "ge",
        "le",
    }
)
ELEMENTWISE = frozenset(NONLINEARITIES) | NONLINEAR_PARTS | ARITHMETIC_PARTS

# activations written out in operators: the operators used, each once
WRITTEN_OUT: dict[frozenset[str], str] = {
    frozenset({"sigmoid", "mul"}): "SiLU",
    frozenset({"sigmoid", "mul", "mul_scalar"}): "QuickGELU",
    frozenset({"hardsigmoid", "mul"}): "Hardswish",
    frozenset({"softplus", "tanh", "mul"}): "Mish",
    frozenset({"add_scalar", "hardtanh", "mul", "div_scalar"}): "Hardswish",
    frozenset({"add_scalar", "hardtanh", "div_scalar"}): "Hardsigmoid",
    frozenset({"add_scalar", "clamp", "div_scalar"}): "Hardsigmoid",
    frozenset({"add_scalar", "clamp", "mul", "div_scalar"}): "Hardswish",
    frozenset({"add_scalar", "hardtanh", "mul", "mul_scalar"}): "Hardswish",
    frozenset({"add_scalar", "clamp", "mul", "mul_scalar"}): "Hardswish",
}
ATTENTION = frozenset({"bmm", "baddbmm", "mm", "matmul"})  # with two operands that depend on the input
FUSED_ATTENTION_PREFIX = "_scaled_dot_product"
