"""Where the state of an optimizer belongs on a mesh, and how large it is."""

from typing import Any

import jax
import optax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from adashift_optax._checks import check_arrays, check_transformation, refuse


def opt_state_shardings(tx: optax.GradientTransformation, params: optax.Params) -> Any:
    """Shardings for ``tx.init(params)``: each array of the state like the parameter it came from.

    The queue's slot axis and axes that phi has reduced are not sharded, nor are counters. It works
    for any Optax chain or wrapper: ``tx.init`` is traced on a copy of the mesh whose axes are
    explicit, and sharding propagates through it as a part of the types.

    Args:
      tx: any Optax transformation.
      params: a tree of arrays or ``jax.ShapeDtypeStruct`` with ``NamedSharding`` on one mesh, of
        any axis types. Leaves with another or no sharding are taken as replicated on it.

    Returns:
      A tree like ``tx.init(params)`` with a ``NamedSharding`` on that mesh in place of each array,
      for the ``out_shardings`` of a jitted init, ``jax.device_put``, or an Orbax restore.

    Raises:
      ValueError: no leaf is on a mesh, or leaves are on different ones.
      TypeError: `tx` is no transformation, or a leaf is no array.

    Examples:
      >>> import jax, optax
      >>> from jax.sharding import NamedSharding, PartitionSpec as P
      >>> from adashift_optax import adashift
      >>> from adashift_optax.sharding import opt_state_shardings
      >>> place = NamedSharding(jax.make_mesh((1, 1), ("x", "y")), P("x", "y"))
      >>> kernel = jax.ShapeDtypeStruct((8, 4), "float32", sharding=place)
      >>> shardings = opt_state_shardings(adashift(1e-2), {"kernel": kernel})
      >>> shardings[0].queue["kernel"].spec
      P(None, 'x', 'y')
    """
    check_transformation(tx)
    check_arrays(params)
    shardings = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(params)]
    meshes = {s.mesh for s in shardings if isinstance(s, NamedSharding)}
    if len(meshes) != 1:
        remedy = "Give every sharded parameter a NamedSharding on the same jax.sharding.Mesh."
        refuse(ValueError, "params", "on one mesh", f"{len(meshes)} meshes", remedy)
    mesh: Any = meshes.pop()
    types = (AxisType.Explicit,) * len(mesh.axis_names)
    explicit = AbstractMesh(mesh.axis_sizes, mesh.axis_names, axis_types=types)

    def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
        spec = getattr(getattr(leaf, "sharding", None), "spec", PartitionSpec())
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(explicit, spec))

    context, within = "use_abstract_mesh", explicit
    if not hasattr(jax.sharding, context):  # on JAX 0.6, whose eval_shape also drops shardings
        context, within = "use_mesh", Mesh(mesh.devices, mesh.axis_names, axis_types=types)
    with getattr(jax.sharding, context)(within):
        init = jax.make_jaxpr(tx.init, return_shape=True)
        jaxpr, state = init(jax.tree.map(abstract, params))
    places = [NamedSharding(mesh, x.sharding.spec) for x in jaxpr.out_avals]
    return jax.tree.unflatten(jax.tree.structure(state), places)


def state_bytes(tx: optax.GradientTransformation, params: optax.Params) -> int:
    """Bytes of the state that ``tx.init(params)`` would allocate, over all devices together once.

    Args:
      tx: any Optax transformation.
      params: a tree of arrays or of ``jax.ShapeDtypeStruct``.

    Returns:
      The sum of the sizes of all arrays of the state, in bytes. Nothing is allocated.

    Examples:
      >>> import jax, optax
      >>> import jax.numpy as jnp
      >>> from adashift_optax import adashift, adashift_factored, state_bytes
      >>> params = {"w": jax.ShapeDtypeStruct((1000, 1000), jnp.float32)}
      >>> state_bytes(optax.adam(1e-3), params)
      8000004
      >>> state_bytes(adashift(1e-2), params)
      48000056
      >>> state_bytes(adashift_factored(1e-3), params)
      4008008
    """
    check_transformation(tx)
    check_arrays(params, or_numbers=True)
    state = jax.tree.leaves(jax.eval_shape(tx.init, params))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in state)
