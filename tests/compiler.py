"""How tests compile. Imported before JAX is.

Compiling is most of the time of the suite, and most of its programs run once, on a few numbers. So
tests compile with COMPILE_QUICKLY. Where digits, buffers or many steps matter, a test compiles with
`compiler_options=AS_USERS`, which are XLA's defaults.
"""

from importlib.metadata import version

COMPILE_QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
AS_USERS = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    "xla_cpu_parallel_codegen_split_count": 32,
}
if version("jaxlib").startswith("0.10."):
    COMPILE_QUICKLY["xla_cpu_parallel_codegen_split_count"] = 1  # before, some programs need more
    COMPILE_QUICKLY["xla_cpu_use_fusion_emitters"] = False  # later, there are no others
    AS_USERS["xla_cpu_use_fusion_emitters"] = True

FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in COMPILE_QUICKLY.items())
