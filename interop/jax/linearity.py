"""The sets of arguments in which an operation is jointly linear, for transposition.

Every operation is a sum of terms. Every term is a product of arguments, and it is linear in each of
them except the offset. So an operation can be transposed with respect to a set of arguments without
the offset if no term contains two of them. As in JAX's built-in transpose rules, a term with none
of them, such as a known bias, is a constant, which the transpose ignores.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from .call_spec import GRAD_OUTPUT, GRAD_OUTPUT_TANGENT, OPERANDS, Argument, CallSpec, Role

Term = frozenset[Argument]

OFFSET = Argument("primal", "offset")
BIAS = Argument("primal", "bias")

_MEANINGS: dict[Role, str] = {
    "primal": "",
    "tangent": "the tangent of ",
    "second_tangent": "the second tangent of ",
}


def linear_arguments(
    spec: CallSpec, unknown: Collection[Argument], outputs: Iterable[str]
) -> list[Argument]:
    """The unknown arguments on which the given outputs depend.

    Raises:
        ValueError: the outputs are not linear in them.
    """
    used = set[Argument]()
    for term in _terms(spec, outputs):
        found = [argument for argument in spec.inputs if argument in term and argument in unknown]
        if OFFSET in found or len(found) > 1:
            _refuse(spec, [OFFSET] if OFFSET in found else found)
        used.update(found)
    return [argument for argument in unknown if argument in used]


def _refuse(spec: CallSpec, arguments: list[Argument]) -> None:
    entry = spec.entry
    names = " and ".join(_MEANINGS[each.role] + entry.public(each.name) for each in arguments)
    together = " together" if len(arguments) > 1 else ""
    *first, last = [each.public for each in entry.operands if each.name not in ("offset", "bias")]
    linear = f"{', '.join(first)} or {last}" if first else last
    bias = ", each with or without bias" if "bias" in entry.names else ""
    raise ValueError(
        f"cannot transpose {spec.operator}: it is not linear in {names}{together}; it is linear in "
        f"{linear}{bias}, where the others are constants. jax.vjp differentiates it by all "
        "arguments"
    )


def _terms(spec: CallSpec, outputs: Iterable[str]) -> list[Term]:
    operands = frozenset(Argument("primal", name) for name in OPERANDS) & frozenset(spec.inputs)
    value = [operands - {BIAS}, operands & {BIAS}]
    along = _along(value, "tangent", spec)
    if spec.operation == "forward":
        return value
    if spec.operation == "jvp":
        return along
    if spec.operation == "second_jvp":
        return _along(along, "second_tangent", spec)
    found = []
    for name in outputs:
        if name == "grad_output":
            found += along
        elif spec.operation == "backward":
            found += _derivative(value, name, GRAD_OUTPUT)
        else:
            found += _derivative(along, name, GRAD_OUTPUT)
            if GRAD_OUTPUT_TANGENT in spec.inputs:
                found += _derivative(value, name, GRAD_OUTPUT_TANGENT)
    return found


def _along(terms: Iterable[Term], role: Role, spec: CallSpec) -> list[Term]:
    """Terms of the directional derivative along the tangents that have the given role."""
    terms = list(terms)
    tangents = [each for each in spec.inputs if each.role == role and each.name in OPERANDS]
    return [term for each in tangents for term in _derivative(terms, each.name, each)]


def _derivative(terms: Iterable[Term], name: str, direction: Argument) -> list[Term]:
    """Terms of the derivative with respect to an operand, each multiplied by the direction."""
    operand = Argument("primal", name)
    # The derivative with respect to the offset still depends on the offset.
    replaced = frozenset[Argument]() if operand == OFFSET else frozenset({operand})
    return [(term - replaced) | {direction} for term in terms if operand in term]
