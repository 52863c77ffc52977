#![no_main]
mod common;
common::target!(common::properties::yaml);
