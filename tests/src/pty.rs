//! A program on a terminal of its own, as a person has it: typed at, read from, asked whether it still echoes.

use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use std::{
    ffi::OsStr,
    fs::File,
    io::{Read as _, Write as _},
    os::unix::ffi::OsStrExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(30);
/// What the terminal makes of Ctrl-C.
pub const CTRL_C: &str = "\x03";
/// What the terminal makes of Ctrl-D at the beginning of a line.
pub const CTRL_D: &str = "\x04";

/// A program in a session of its own, whose controlling terminal is ours. Killed when dropped.
pub struct Session {
    child: Child,
    keyboard: File,
    /// Kept open, so that the terminal's modes can be asked for when the program has ended.
    screen_side: Option<File>,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: Option<thread::JoinHandle<()>>,
    seen: usize,
}

/// How it ended.
pub struct Ended {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// All that the terminal showed.
    pub shown: String,
    /// Whether it echoes what is typed, as it did before.
    pub echoes: bool,
}

impl Session {
    /// Runs `command` with all three standard streams on the terminal.
    pub fn start(command: &Command) -> Self {
        Self::with_output(command, None)
    }

    /// Runs `command` with its standard output in a file, where one is named.
    pub fn with_output(command: &Command, output: Option<&Path>) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("make a terminal");
        grantpt(&master).expect("grant the terminal");
        unlockpt(&master).expect("unlock the terminal");
        let size = Winsize {
            ws_col: 80,
            ws_row: 24,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).expect("size the terminal");
        let name = ptsname(&master, Vec::new()).expect("the terminal's name");
        let slave = File::options()
            .read(true)
            .write(true)
            .open(OsStr::from_bytes(name.as_bytes()))
            .expect("open the terminal");
        let share = || Stdio::from(slave.try_clone().expect("share the terminal"));

        // setsid makes it the controlling terminal, which /dev/tty then is.
        let mut on_terminal = Command::new("setsid");
        on_terminal
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear()
            .envs(
                command
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .env("TERM", "dumb")
            .stdin(share())
            .stdout(output.map_or_else(share, |path| {
                File::create(path).expect("make the output's file").into()
            }))
            .stderr(share());
        let child = on_terminal
            .spawn()
            .expect("run setsid (apt-get install util-linux)");

        let keyboard = File::from(master);
        let shown = Arc::<Mutex<Vec<u8>>>::default();
        let reader = {
            let mut screen = keyboard.try_clone().expect("share the terminal");
            let shown = Arc::clone(&shown);
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                // An error is the hang-up: nobody has the terminal open any more.
                while let Ok(count @ 1..) = screen.read(&mut bytes) {
                    let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
                    shown.extend(&bytes[..count]);
                }
            })
        };
        Self {
            child,
            keyboard,
            screen_side: Some(slave),
            shown,
            reader: Some(reader),
            seen: 0,
        }
    }

    /// All that the terminal showed so far.
    pub fn shown(&self) -> String {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&shown).into_owned()
    }

    /// Waits until the terminal shows `text`, after what was waited for before.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let shown = self.shown();
            if let Some(at) = shown.get(self.seen..).and_then(|rest| rest.find(text)) {
                self.seen += at + text.len();
                return;
            }
            assert!(
                Instant::now() < end,
                "the terminal never showed {text:?} after byte {}:\n{shown}",
                self.seen
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for a question that must not echo, and answers it.
    #[track_caller]
    pub fn answer_hidden(&mut self, question: &str, answer: &str) {
        self.wait_for(question);
        assert!(!self.echoes(), "{question:?} echoes:\n{}", self.shown());
        self.type_line(answer);
    }

    /// Types without a newline.
    pub fn type_keys(&mut self, keys: &str) {
        self.keyboard
            .write_all(keys.as_bytes())
            .expect("type on the terminal");
    }

    /// Types a line.
    pub fn type_line(&mut self, line: &str) {
        self.type_keys(&format!("{line}\n"));
    }

    /// Whether the terminal shows what is typed.
    pub fn echoes(&self) -> bool {
        tcgetattr(&self.keyboard)
            .expect("ask for the terminal's modes")
            .local_modes
            .contains(LocalModes::ECHO)
    }

    /// Sends a signal to the program.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process id");
        kill_process(id, signal).expect("send a signal");
    }

    /// Waits for the program's end.
    #[track_caller]
    pub fn end(mut self) -> Ended {
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("ask after the program") {
                break status;
            }
            assert!(
                Instant::now() < end,
                "it still runs; the terminal shows:\n{}",
                self.shown()
            );
            thread::sleep(Duration::from_millis(10));
        };
        let echoes = self.echoes();
        // The last hand on the terminal: what was written is read, then comes the hang-up.
        drop(self.screen_side.take());
        if let Some(reader) = self.reader.take() {
            reader.join().expect("read the terminal to its end");
        }
        Ended {
            code: status.code(),
            shown: self.shown(),
            echoes,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Asserts the exit code, what the terminal says, and that it echoes again.
    #[track_caller]
    pub fn with(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.shown);
        assert!(self.echoes, "the echo is still off:\n{}", self.shown);
        for word in words {
            assert!(
                self.shown.contains(word),
                "{word:?} is missing:\n{}",
                self.shown
            );
        }
        assert!(!self.shown.contains("panicked"), "{}", self.shown);
        self
    }

    /// Asserts that the terminal never showed any of these.
    #[track_caller]
    pub fn without(&self, secrets: &[&str]) {
        for secret in secrets {
            assert!(
                !self.shown.contains(secret),
                "{secret:?} is shown:\n{}",
                self.shown
            );
        }
    }
}
