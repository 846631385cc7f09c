"""What the documentation promises, and the test that holds it: docs/contract.md has this table."""

from pathlib import Path

TESTS = Path(__file__).parent

PROMISES = [
    (
        "The updates of both optimizers are those of a NumPy reference in float64, to 1e-12, "
        "and in float32 to 2e-5: at every step and for leaves of every rank.",
        "test_exact.py::test_equals_reference",
    ),
    ("So they are for arguments drawn at random.", "test_random.py::test_random_case"),
    (
        "The reference is Algorithm 1, by hand, and the factored rule, by hand.",
        "test_reference.py::test_delay_and_window_by_hand",
    ),
    (
        "m and v share no gradient in the paper's rule.",
        "test_reference.py::test_m_and_v_share_no_gradient",
    ),
    (
        "The first scaled gradient of `adashift_factored` is the sign of the gradient.",
        "test_exact.py::test_first_step_of_the_factored_rule_is_the_sign",
    ),
    (
        "Complex gradients count as the square of their magnitude.",
        "test_exact.py::test_complex_gradients_use_their_magnitude",
    ),
    (
        "The state has the bytes that the documentation says.",
        "test_state.py::test_bytes_of_state",
    ),
    (
        "Its fields have the shapes and dtypes of the docstrings.",
        "test_state.py::test_fields_of_the_paper_as_documented",
    ),
    ("No shape or dtype changes during training.", "test_state.py::test_types_never_change"),
    ("One compilation serves all steps.", "test_state.py::test_one_compilation"),
    (
        "The count stops at the largest int32, and updates go on.",
        "test_soak.py::test_count_saturates_and_the_ring_still_turns",
    ),
    (
        "A million steps add no drift (`make test-all`).",
        "test_soak.py::test_a_million_updates_do_not_drift",
    ),
    (
        "A donated step is in place: no temporary array is as large as a leaf.",
        "test_in_place.py::test_donated_step_is_in_place",
    ),
    (
        "An update waits for no sum over today's gradient.",
        "test_order.py::test_an_update_waits_for_no_reduction",
    ),
    (
        "On TPUs it joins the matrix product that makes the gradient (compiled, not run).",
        "test_compiled.py::test_the_update_joins_its_matmul",
    ),
    (
        "On a mesh it waits for no all-reduce of its step (compiled, not run).",
        "test_compiled.py::test_on_a_mesh_no_update_waits",
    ),
    (
        "An update is rounded once, behind the learning rate.",
        "test_widths.py::test_the_rate_comes_before_the_cast",
    ),
    (
        "A bfloat16 queue rounds what enters the window, and the same leaves it.",
        "test_precision.py::test_what_enters_the_window_is_what_leaves_it",
    ),
    (
        "A bfloat16 momentum is rounded before the update is made of it.",
        "test_precision.py::test_a_narrow_momentum_is_rounded_before_the_update_is_made",
    ),
    (
        "Finite gradients make finite updates, up to the ends of the range.",
        "test_ends_of_range.py::test_finite_gradients_make_no_nan",
    ),
    (
        "A statistic that overflows does not join v.",
        "test_ends_of_range.py::test_statistics_that_overflow_do_not_join_v",
    ),
    (
        "A gradient that is not finite makes an update that is not, as in Adam, and no other.",
        "test_ends_of_range.py::test_gradients_that_are_not_finite",
    ),
    (
        "An element or a block without a scale makes no step.",
        "test_ends_of_range.py::test_no_scale_no_step",
    ),
    ("Every bad argument is refused by its name.", "test_bad_arguments.py::test_bad_argument"),
    (
        "So are parameters, gradients and states that do not belong together.",
        "test_bad_calls.py::test_bad_call",
    ),
    (
        "Named arrays of other libraries are refused by a plain error.",
        "test_masks.py::test_named_arrays_of_other_libraries_are_refused",
    ),
    (
        "`optax.inject_hyperparams` works with static arguments.",
        "test_injection.py::test_static_arguments",
    ),
    (
        "It works without any, as libraries use it that make an optimizer from its class.",
        "test_injection.py::test_a_library_that_knows_no_static_args",
    ),
    ("Weight decay may be a schedule.", "test_injection.py::test_weight_decay_may_be_a_schedule"),
    (
        "Masks of weight decay are those of `optax.adamw`.",
        "test_masks.py::test_masks_are_those_of_optax",
    ),
    (
        "Boxes of Flax may hold no array, one or many.",
        "test_masks.py::test_a_box_holds_a_tree",
    ),
    (
        "On a mesh updates are those of one device, for axes of both types.",
        "test_sharding.py::test_updates_equal_the_reference",
    ),
    (
        "The state is in its place from `init` on, and slots are not sharded.",
        "test_sharding.py::test_the_state_is_in_its_place_from_init_on",
    ),
    (
        "`opt_state_shardings` tells the places for any chain or wrapper.",
        "test_sharding.py::test_opt_state_shardings_of_any_wrapper",
    ),
    (
        "In `jax.shard_map` a phi with a collective gives the same bits.",
        "test_shard_map.py::test_the_recipe_is_the_same_optimizer",
    ),
    (
        "Under `jax.pmap` averaged gradients are enough.",
        "test_shard_map.py::test_pmap_with_replicated_state",
    ),
    (
        "What is communicated is a number for each leaf, or its rows and columns.",
        "test_shard_map.py::test_numbers_that_are_communicated",
    ),
    ("`nnx.Optimizer` works as it is.", "test_flax.py::test_nnx_optimizer_as_it_is"),
    (
        "So it does where the axes have one name, a tuple, a PartitionSpec or a NamedSharding.",
        "test_flax.py::test_names_of_axes",
    ),
    ("So it does for layers that are stacked.", "test_flax.py::test_nnx_vmapped_layers"),
    (
        "Boxes of linen, `nn.scan` and `TrainState` work.",
        "test_flax.py::test_linen_scanned_layers_in_a_train_state",
    ),
    (
        "Modules of Equinox work (`make test-all`).",
        "test_equinox.py::test_equinox_modules_on_a_mesh",
    ),
    (
        "Eight packages of others train with these optimizers (`make test-all`).",
        "test_clients.py::test_job",
    ),
    (
        "A run that is saved by Orbax and restored goes on bit for bit.",
        "test_checkpoint.py::test_orbax",
    ),
    ("So does one saved by `flax.serialization`.", "test_checkpoint.py::test_flax_serialization"),
    (
        "A checkpoint of another n, phi, dtype, `block_axes` or b1 is refused by name.",
        "test_checkpoint.py::test_a_state_of_other_arguments_is_refused_by_name",
    ),
    (
        "Several processes share one state and one checkpoint.",
        "test_distributed.py::test_processes",
    ),
    (
        "A parameter can be added in the middle of a run.",
        "test_recipes.py::test_a_parameter_that_is_added_in_mid_run",
    ),
    (
        "`optax.ema` behind `scale_by_adashift` is the old window but for the bias correction.",
        "test_exact.py::test_scale_first_then_average",
    ),
    (
        "`optax.clip` in the chain bounds each update.",
        "test_recipes.py::test_a_clip_behind_the_scale",
    ),
    (
        "A function for `block_axes` makes one block for each output.",
        "test_recipes.py::test_one_block_for_each_output",
    ),
    (
        "Nothing of a trace outlives it.",
        "test_state.py::test_nothing_of_a_trace_outlives_it",
    ),
    (
        "The first n updates of `adashift` are zero, also under `optax.MultiSteps`.",
        "test_contexts.py::test_multi_steps",
    ),
    (
        "On the counterexamples each optimizer goes where the paper says.",
        "test_problems.py::test_who_goes_the_wrong_way",
    ),
]
