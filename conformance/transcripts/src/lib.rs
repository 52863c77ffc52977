//! Sessions with stock kubectl against a running cluster, as `*.md` beside this crate: `$ kubectl …` with the output and
//! exit code that a person saw. `[..]` stands for any text, `...` for any lines. `hack/cluster-test` runs them.
