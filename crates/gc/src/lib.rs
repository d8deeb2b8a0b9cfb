//! Collection and check: mark, plan, sweep, verify.
