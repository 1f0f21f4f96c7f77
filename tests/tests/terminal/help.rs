//! Every command of both programs explains itself, refuses what it does not know, and completes in the shells.

use crate::exit;
use std::{
    collections::VecDeque,
    fs,
    process::{Command, Stdio},
};
use touchstone_tests::{child::program, engineer::Ran};

const PROGRAMS: [&str; 2] = ["touchstone", "touchstone-signer"];

fn run(name: &str, arguments: &[String]) -> Ran {
    Ran::of(
        Command::new(program(name))
            .args(arguments)
            .stdin(Stdio::null()),
    )
}

/// The names under `Commands:` of a help page.
fn commands_of(help: &str) -> Vec<String> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  "))
        // Deeper lines go on with the description of the command above.
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(ToOwned::to_owned)
        .collect()
}

/// Every command and subcommand of a program, the program itself among them.
fn every_command(name: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut waiting = VecDeque::from([Vec::new()]);
    while let Some(path) = waiting.pop_front() {
        let mut arguments = path.clone();
        arguments.push("--help".to_owned());
        let help = run(name, &arguments).succeeded();
        assert!(
            help.stdout.contains("Usage:") && help.stderr.is_empty(),
            "{path:?}: {help}"
        );
        for command in commands_of(&help.stdout) {
            let mut deeper = path.clone();
            deeper.push(command);
            waiting.push_back(deeper);
        }
        found.push(path);
    }
    found
}

#[test]
fn every_command_has_help_and_refuses_an_option_it_does_not_know() {
    for (name, at_least) in PROGRAMS.into_iter().zip([18, 10]) {
        let commands = every_command(name);
        assert!(commands.len() >= at_least, "{name}: {commands:?}");
        for path in commands {
            let mut short = path.clone();
            short.push("-h".to_owned());
            run(name, &short).succeeded();
            let mut unknown = path;
            unknown.push("--no-such-option".to_owned());
            let ran = run(name, &unknown);
            ran.failed(exit::USAGE, &["--no-such-option", "--help"]);
            assert!(ran.stdout.is_empty(), "{unknown:?}: {ran}");
        }
    }
}

#[test]
fn a_program_that_is_told_nothing_shows_its_help_and_fails() {
    for name in PROGRAMS {
        run(name, &[]).failed(exit::USAGE, &["Usage:", "Commands:"]);
        run(name, &["no-such-command".to_owned()]).failed(exit::USAGE, &["no-such-command"]);
        let version = run(name, &["--version".to_owned()]).succeeded();
        assert!(version.stdout.starts_with(&format!("{name} ")), "{version}");
    }
}

#[test]
fn completions_name_the_commands_and_bash_reads_its_own() {
    let folder = tempfile::Builder::new()
        .prefix("touchstone-completions-")
        .tempdir()
        .expect("make a temporary folder");
    for name in PROGRAMS {
        for shell in ["bash", "zsh", "fish"] {
            let arguments = ["completions", shell].map(ToOwned::to_owned);
            let script = run(name, &arguments).succeeded().stdout;
            for command in every_command(name).iter().filter_map(|path| path.last()) {
                assert!(script.contains(command), "{name} {shell}: {command}");
            }
            if shell == "bash" {
                let file = folder.path().join(name);
                fs::write(&file, script).expect("write a script");
                Ran::of(Command::new("bash").arg("-n").arg(&file)).succeeded();
            }
        }
    }
}
