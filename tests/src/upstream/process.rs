//! A container's process: one of this machine, with pipes or with a terminal of its own.

use super::streams::{Channel, Exec, Input, Output};
use bytes::Bytes;
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use serde_json::{Value, json};
use std::{
    ffi::OsStr,
    fs::File,
    io::{Read as _, Write as _},
    os::unix::{ffi::OsStrExt as _, process::ExitStatusExt as _},
    process::{ExitStatus, Stdio},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    sync::mpsc,
};

/// Runs a command until it ends, or until its client has gone. The Status that is its last word.
pub(super) async fn run(exec: Exec, input: mpsc::Receiver<Input>, output: Output) -> Value {
    let ended = if exec.tty {
        on_terminal(&exec, input, output).await
    } else {
        on_pipes(&exec, input, output).await
    };
    match ended {
        Ok(status) => in_words(status),
        Err(error) => json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": format!("start {:?}: {error}", exec.command), "reason": "InternalError", "code": 500,
        }),
    }
}

fn in_words(status: ExitStatus) -> Value {
    if status.success() {
        return json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success" });
    }
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "reason": "NonZeroExitCode",
        "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
    })
}

fn command(exec: &Exec) -> std::io::Result<(&String, &[String])> {
    exec.command
        .split_first()
        .ok_or_else(|| std::io::ErrorKind::InvalidInput.into())
}

async fn on_pipes(
    exec: &Exec,
    mut input: mpsc::Receiver<Input>,
    output: Output,
) -> std::io::Result<ExitStatus> {
    let (program, arguments) = command(exec)?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(if exec.stdin {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdin = child.stdin.take();
    let feeding = tokio::spawn(async move {
        let Some(mut stdin) = stdin else { return input };
        while let Some(input) = input.recv().await {
            match input {
                Input::Data(data) if stdin.write_all(&data).await.is_ok() => {}
                Input::Size { .. } => {}
                Input::Data(_) | Input::End => break,
            }
        }
        input
    });
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let read = async {
        tokio::join!(
            pass(stdout, Channel::Stdout, &output),
            pass(stderr, Channel::Stderr, &output)
        )
    };
    ended(&mut child, read, &output, feeding).await
}

async fn pass(from: Option<impl AsyncRead + Unpin>, channel: Channel, output: &Output) {
    let Some(mut from) = from else { return };
    let mut piece = vec![0; 32 * 1024];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let data = Bytes::copy_from_slice(&piece[..length]);
        if output.send((channel, data)).await.is_err() {
            return;
        }
    }
}

/// Waits for a process, which ends when its client goes.
async fn ended<T>(
    child: &mut Child,
    read: impl Future<Output = T>,
    output: &Output,
    feeding: tokio::task::JoinHandle<mpsc::Receiver<Input>>,
) -> std::io::Result<ExitStatus> {
    tokio::select! {
        _ = read => {}
        () = output.closed() => child.start_kill()?,
    }
    let status = child.wait().await;
    feeding.abort();
    status
}

async fn on_terminal(
    exec: &Exec,
    mut input: mpsc::Receiver<Input>,
    output: Output,
) -> std::io::Result<ExitStatus> {
    let (program, arguments) = command(exec)?;
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let screen = File::options()
        .read(true)
        .write(true)
        .open(OsStr::from_bytes(name.as_bytes()))?;
    let mut child = Command::new("setsid")
        .args(["--ctty", "--wait"])
        .arg(program)
        .args(arguments)
        .env("TERM", "dumb")
        .stdin(screen.try_clone()?)
        .stdout(screen.try_clone()?)
        .stderr(screen)
        .kill_on_drop(true)
        .spawn()?;
    let master = File::from(master);
    let mut keyboard = master.try_clone()?;
    let feeding = tokio::spawn(async move {
        while let Some(input) = input.recv().await {
            match input {
                Input::Data(data) => {
                    // A terminal takes what is typed at once.
                    let _ = keyboard.write_all(&data);
                }
                Input::Size { columns, rows } => {
                    let size = Winsize {
                        ws_col: columns,
                        ws_row: rows,
                        ws_xpixel: 0,
                        ws_ypixel: 0,
                    };
                    let _ = tcsetwinsize(&keyboard, size);
                }
                Input::End => {}
            }
        }
        input
    });
    let mut screen = master;
    let shown = output.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let mut piece = [0; 4096];
        // An error is the hang-up.
        while let Ok(length @ 1..) = screen.read(&mut piece) {
            let data = Bytes::copy_from_slice(&piece[..length]);
            if shown.blocking_send((Channel::Stdout, data)).is_err() {
                return;
            }
        }
    });
    ended(&mut child, reading, &output, feeding).await
}
