//! The page for a person, as browsers get it, and as Chromium shows it.
#![forbid(unsafe_code)]

use rustix::process::Signal;
use serde_json::json;

use super::bay::{Bay, TOKEN};
use super::browser::Browser;
use crate::testkit::{Cap, need};

#[test]
fn who_asks_for_a_page_gets_one_and_everybody_else_the_greeting() {
    let bay = Bay::start(&[]);
    let page = bay
        .request("GET", "/")
        .token(None)
        .header("Accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")
        .send()
        .is(200);
    assert!(page.header("content-type").unwrap().starts_with("text/html"), "{}", page.head);
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    for accept in ["application/json", "*/*"] {
        let greeting = bay.request("GET", "/").header("Accept", accept).send().is(200).json();
        assert_eq!(greeting, json!({ "status": "ok", "message": "Welcome to Bay API" }));
    }
    let text = page.text();
    let named = text.split('"').filter(|part| part.starts_with("page/"));
    for part in named {
        bay.request("GET", &format!("/{part}")).token(None).send().is(200);
    }
    for missing in ["/page/none.js", "/page/..%2fpage.rs", "/page/"] {
        bay.request("GET", missing).token(None).send().is(404);
    }
    bay.end();
}

/// A service, and a browser that knows the token.
fn signed_in(bay: &Bay) -> Browser {
    let mut browser = Browser::start();
    browser.go(&bay.url());
    browser.until_it_says("Access token");
    sign_in(&mut browser, TOKEN);
    browser.until("!document.getElementById('leave').hidden");
    browser
}

fn sign_in(browser: &mut Browser, token: &str) {
    browser.value(&format!("document.querySelector('input[type=password]').value = {}", json!(token)));
    browser.press("Continue");
}

#[test]
fn a_person_makes_uses_stops_and_removes_a_ship() {
    if !need(&[Cap::Chromium]) {
        return;
    }
    let bay = Bay::start(&[]);
    let mut browser = signed_in(&bay);
    browser.until_it_says("No ships");
    browser.press("New ship");
    browser.until("location.hash.length > 30");
    let id = browser.value("location.hash.slice(2)").as_str().unwrap().to_owned();
    browser.until_it_says("Time left");
    assert_eq!(bay.listed(&id), Some(1));
    browser.value(&format!("location.hash = '#/{id}/terminal'"));
    browser.press("Open a terminal");
    browser.until_it_says("connected");
    browser.type_text("echo $((6 * 7))-grün > said; cat said\n");
    browser.until_it_says("42-grün");
    browser.value(&format!("location.hash = '#/{id}/snapshots'"));
    browser.until_it_says("No snapshots");
    browser.value("document.querySelector('input[placeholder=Message]').value = '<b>first</b>'");
    browser.press("Take a snapshot");
    browser.until_it_says("<b>first</b>");
    browser.value(&format!("location.hash = '#/{id}/changes'"));
    browser.until_it_says("Since ");
    browser.value(&format!("location.hash = '#/{id}/log'"));
    browser.value(&format!("location.hash = '#/{id}'"));
    browser.press("Stop");
    browser.until("[...document.querySelectorAll('button')].some((one) => one.textContent === 'Start')");
    assert_eq!(bay.listed(&id), Some(0));
    for (tab, purpose) in
        [("snapshots", "see its snapshots"), ("changes", "see what changed"), ("terminal", "open a terminal")]
    {
        browser.value(&format!("location.hash = '#/{id}/{tab}'"));
        browser.until_it_says(&format!("Start it to {purpose}"));
        assert_eq!(browser.value("document.getElementById('trouble').hidden"), true);
    }
    browser.value(&format!("location.hash = '#/{id}'"));
    assert_eq!(browser.errors(), Vec::<String>::new());
    browser.value("window.confirm = () => true");
    browser.press("Remove with all data");
    browser.until_it_says("No ships");
    assert_eq!(bay.listed(&id), None);
    bay.end();
}

#[test]
fn the_page_says_what_is_wrong() {
    if !need(&[Cap::Chromium]) {
        return;
    }
    let mut bay = Bay::start(&["--max-ships", "1", "--when-full", "reject"]);
    let mut browser = Browser::start();
    browser.go(&bay.url());
    browser.until_it_says("Access token");
    sign_in(&mut browser, "wrong");
    browser.until_it_says("Invalid access token");
    sign_in(&mut browser, TOKEN);
    browser.until_it_says("No ships");
    bay.ship_id("other");
    browser.press("New ship");
    browser.until_it_says("Maximum number of ships reached");
    browser.value("location.hash = '#/00000000-0000-4000-8000-000000000000'");
    browser.until_it_says("There is no such ship");
    bay.signal(Signal::KILL);
    browser.until_it_says("The service does not answer");
    bay.again(Signal::KILL);
    bay.end();
}

#[test]
fn what_clients_call_themselves_is_no_markup() {
    if !need(&[Cap::Chromium]) {
        return;
    }
    let bay = Bay::start(&[]);
    let session = "<img src=x onerror=document.title=1>";
    let id = bay.ship_id(session);
    let mut browser = signed_in(&bay);
    browser.value(&format!("location.hash = '#/{id}'"));
    browser.until_it_says(session);
    browser.value(&format!("location.hash = '#/{id}/log'"));
    assert_eq!(browser.value("document.title"), "vesselrt");
    assert_eq!(browser.value("document.querySelectorAll('img').length"), 0);
    bay.end();
}

#[test]
fn the_page_fits_a_narrow_window_too() {
    if !need(&[Cap::Chromium]) {
        return;
    }
    let bay = Bay::start(&[]);
    let id = bay.ship_id("one");
    let mut browser = signed_in(&bay);
    browser.until_it_says(&id);
    for (width, views) in [(360, 6), (1600, 6)] {
        browser.resize(width, 700);
        for view in ["", "/overview", "/terminal", "/log", "/snapshots", "/changes"].iter().take(views) {
            let place = if view.is_empty() { "#/".to_owned() } else { format!("#/{id}{view}") };
            browser.value(&format!("location.hash = '{place}'"));
            browser.until("document.querySelectorAll('section').length > 0");
            browser.until("document.documentElement.scrollWidth <= innerWidth");
        }
    }
    bay.end();
}

#[test]
fn the_screen_of_the_terminal_does_as_terminals_do() {
    if !need(&[Cap::Chromium]) {
        return;
    }
    let bay = Bay::start(&[]);
    let mut browser = signed_in(&bay);
    for (what, size, expected) in [
        ("hello\\r\\nworld", "10, 3", json!(["hello", "world", ""])),
        ("abc\\x1b[2DX", "10, 2", json!(["aXc", ""])),
        ("1\\r\\n2\\r\\n3\\r\\n4", "5, 3", json!(["2", "3", "4"])),
        ("abcdefg", "5, 2", json!(["abcde", "fg"])),
        ("abc\\x1b[?1049h\\x1b[Hvim\\x1b[?1049l", "5, 2", json!(["abc", ""])),
        ("\\x1b[2;3r\\x1b[3;1Ha\\r\\nb\\r\\nc", "5, 4", json!(["", "b", "c", ""])),
        ("abcdef\\x1b[3G\\x1b[2P\\x1b[@_", "8, 1", json!(["ab_ef"])),
        ("\\x1b]0;title\\x07\\x1b[31mred\\x1b[0m \\x1b[38;5;200mx", "9, 1", json!(["red x"])),
        ("日本x", "6, 1", json!(["日本x"])),
        ("\\x1b(0lqk\\x1b(Bq", "5, 1", json!(["┌─┐q"])),
        ("\\x1b[999;999H*\\x1b[-1;x", "3, 2", json!(["", "  *"])),
    ] {
        let lines = format!(
            "import('/page/screen.js').then(({{ Screen }}) => {{ const screen = new Screen({size}); screen.write('{what}'); \
             return screen.lines.map((line) => line.map((cell) => cell.text).join('').trimEnd()); }})"
        );
        assert_eq!(browser.value(&lines), expected, "{what}");
    }
    // Whatever comes, there are as many cells as there are.
    let noise = "import('/page/screen.js').then(({ Screen }) => { let seed = 7; const next = (n) => (seed = (seed * 1103515245 + 12345) % 2147483648) % n; \
                 for (let round = 0; round < 500; round += 1) { const screen = new Screen(2 + next(20), 2 + next(10)); \
                 for (let part = 0; part < 3; part += 1) { let text = ''; for (let i = 0; i < 200; i += 1) text += String.fromCharCode([27, 91, 59, 48 + next(10), 64 + next(62), next(128)][next(6)]); \
                 screen.write(text); if (screen.lines.length !== screen.rows || screen.lines.some((line) => line.length !== screen.cols)) return round; screen.resize(2 + next(9), 2 + next(9)); } } return -1; })";
    assert_eq!(browser.value(noise), -1);
    bay.end();
}
