//! `sparseland doctor`: is this machine and this build in order?

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use sparseland_core::Context;
use sparseland_eval::table::human_bytes;

use crate::machine::Machine;

/// Checks the machine and this build.
#[derive(Args)]
pub struct Doctor {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    version: &'static str,
    optimised: bool,
    machine: Machine,
    threads: usize,
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct Finding {
    severity: &'static str,
    message: String,
    remedy: String,
}

impl Doctor {
    /// Runs the command.
    pub fn run(self, context: &Context) -> Result<()> {
        let machine = Machine::look();
        let report = Report {
            version: env!("CARGO_PKG_VERSION"),
            optimised: !cfg!(debug_assertions),
            threads: context.threads(),
            findings: findings(&machine, context.threads()),
            machine,
        };
        if self.json {
            return super::print_json(&report);
        }
        let m = &report.machine;
        let build = if report.optimised { "optimised" } else { "debug" };
        let mut text = format!("sparseland {} ({build} build)\n", report.version);
        text += &format!("cpu       {}, {} threads, using {}\n", m.cpu, m.cores, report.threads);
        text += &format!("kernels   {}\n", m.features.join(", "));
        if let Some(bytes) = m.available_memory {
            text += &format!("memory    {} available\n", human_bytes(bytes));
        }
        if report.findings.is_empty() {
            text += "nothing to report\n";
        }
        for f in &report.findings {
            text += &format!("{}: {}; {}\n", f.severity, f.message, f.remedy);
        }
        super::print_text(&text)
    }
}

fn findings(machine: &Machine, threads: usize) -> Vec<Finding> {
    let mut out = Vec::new();
    let mut find = |severity, message: String, remedy: &str| {
        out.push(Finding { severity, message, remedy: remedy.into() });
    };
    if cfg!(debug_assertions) {
        find("warning", "this is a debug build, many times slower".into(), "build with --release");
    }
    if !machine.features.iter().any(|f| f.starts_with("avx512")) {
        let message = "no AVX-512 kernels on this CPU".into();
        find("info", message, "results are the same, sparse products gain less");
    }
    if threads > machine.cores {
        find("warning", format!("{threads} threads on {} cores", machine.cores), "lower --threads");
    }
    if machine.available_memory.is_some_and(|m| m < 1 << 30) {
        find("warning", "less than 1 GiB of memory is free".into(), "close other programs");
    }
    out
}
