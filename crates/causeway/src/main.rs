//! The roof: the command line, and the wiring of the rooms into processes.
//!
//! In:    arguments, environment, `causeway.toml`.     Out: a node, a proxy, a demo, or an answer; exit codes 0 fine, 1 failed, 2 wrong usage.
//! Owner: the operating system.
//! Invariant: this crate decides the order in which things start and stop, and nothing else.
//! Not here: everything else; see ARCHITECTURE.md.

mod app;
mod checks;
mod cli;
mod client;
mod commands;
mod demo;
mod dial;
mod dns;
mod documents;
mod gateways;
mod home;
mod house;
mod leash;
mod node;
mod notify_ready;
mod records;
mod redirect;
mod report;
mod sidecar;
mod signals;
mod state;
mod traces;

use std::process::ExitCode;

use anyhow::Result;
use causeway_base::telemetry::{LogFormat, init_log};

use cli::{Cli, TokenVerb, Verb};
use client::Client;
use commands::{apply, event, explain, get, saga, tap, token, top, trace, wait, why};

/// Idle memory counts on every sidecar; speed counts on the data path: measured, it takes 6 to 10 % of a request's CPU.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|verb| verb == leash::VERB) {
        eprintln!("{:#}", leash::become_program(&args[1..]));
        return ExitCode::FAILURE;
    }
    match cli::parse().and_then(start) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: Cli) -> Result<ExitCode> {
    let mut runtime = match cli.verb {
        // The node's rooms are tasks of their own and use every core; the others' work is in the data path's own threads.
        Verb::Up(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = runtime.enable_all().build()?;
    if matches!(cli.verb, Verb::Up(_) | Verb::Run(_) | Verb::Proxy(_)) {
        let format = match cli.log_format {
            cli::LogFormat::Text => LogFormat::Text,
            cli::LogFormat::Json => LogFormat::Json,
        };
        init_log(format, &cli.log).map_err(|error| anyhow::anyhow!(error))?;
    }
    let code = runtime.block_on(perform(cli))?;
    // What is still blocking (a file system that hangs) must not keep the process.
    runtime.shutdown_background();
    Ok(code)
}

async fn perform(cli: Cli) -> Result<ExitCode> {
    let client = || Client::new(&cli.api);
    match cli.verb {
        Verb::Up(up) => return node::run(up).await,
        Verb::Run(run) => return sidecar::run(&cli.api, run.app, run.join, run.command).await,
        Verb::Proxy(proxy) => return sidecar::proxy(&cli.api, proxy.gateway, proxy.app, proxy.join).await,
        Verb::Demo(demo) => demo::run(demo).await?,
        Verb::Apply(apply) => apply::apply(&client()?, apply).await?,
        Verb::Check { paths } => apply::check(&paths)?,
        Verb::Get(get) => get::get(&client()?, get).await?,
        Verb::Delete { kind, name, namespace } => {
            apply::delete(&client()?, &kind, &namespace.namespace, &name).await?
        }
        Verb::Wait { rev, timeout } => wait::wait(&client()?, rev, timeout).await?,
        Verb::Explain { code } => explain::explain(&code)?,
        Verb::Why(verb) => why::why(&client()?, verb).await?,
        Verb::Tap(verb) => tap::tap(&client()?, verb).await?,
        Verb::Top(verb) => top::top(&client()?, verb).await?,
        Verb::Trace(verb) => trace::trace(&client()?, verb).await?,
        Verb::Token(TokenVerb::Create { name, namespace, ttl }) => {
            println!("{}", token::create(&client()?, &namespace.namespace, &name, ttl).await?);
        }
        Verb::Event(verb) => event::event(&client()?, verb).await?,
        Verb::Saga(verb) => saga::saga(&client()?, verb).await?,
        Verb::Completion { shell } => cli::complete(shell),
    }
    Ok(ExitCode::SUCCESS)
}
