//! A clock that is wrong: found out before PIN and touch.

use crate::{Setting, at_another_time, exit};
use touchstone_tests::{
    engineer::{PIN, Ran},
    policy::GRANTED,
};

#[test]
fn a_clock_that_is_ten_minutes_off_is_named_before_a_try_or_a_touch_is_spent() {
    let setting = Setting::new();
    let engineer = &setting.engineer;
    // Would cost a try, if it were sent.
    engineer.secret("pin", "999999");
    for (offset, words) in [
        (
            "+10m",
            [
                "this machine's clock is 10 minutes ahead of the server's",
                "set the clock",
            ],
        ),
        ("-10m", ["behind the server's", "set the clock"]),
    ] {
        let login = engineer.login_command(GRANTED);
        Ran::of(&mut at_another_time(offset, &login)).failed(exit::CLOCK, &words);
    }
    let listed = engineer
        .run(["key", "list", "--output", "json"])
        .succeeded();
    assert!(listed.stdout.contains("\"pinTriesLeft\": 3"), "{listed}");
    assert_eq!(setting.requests(), 0);

    // Half a minute is nothing that anyone is bothered with.
    engineer.secret("pin", PIN);
    let login = engineer.login_command(GRANTED);
    Ran::of(&mut at_another_time("-30s", &login)).succeeded();
}

#[test]
fn a_certificate_that_has_ended_is_told_from_none() {
    const NOT_LOGGED_IN: i32 = 15;
    let setting = Setting::new();
    let engineer = &setting.engineer;
    let status = engineer.touchstone(["status"]);
    Ran::of(&mut at_another_time("+0", &status)).failed(NOT_LOGGED_IN, &["there is no"]);
    engineer.login(GRANTED).succeeded();
    Ran::of(&mut at_another_time("+29m", &status)).succeeded();
    Ran::of(&mut at_another_time("+31m", &status))
        .failed(NOT_LOGGED_IN, &["ended", "touchstone login"]);
    let pin = engineer.path_text("pin");
    let whoami = engineer.touchstone(["whoami", "--pin-file", &pin]);
    Ran::of(&mut at_another_time("+31m", &whoami)).failed(NOT_LOGGED_IN, &["ended"]);
}
