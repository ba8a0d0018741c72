use clap::CommandFactory;

use super::*;

fn said(line: &[&str]) -> String {
    let error = Cli::try_parse_from(std::iter::once(&"vesselrt").chain(line)).unwrap_err();
    mend(error).to_string()
}

#[test]
fn verbs_of_other_tools_lead_to_ours_instead_of_to_a_guess() {
    for (line, expected) in [
        (&["images"][..], "tip: to list images: `vesselrt image ls`"),
        (&["rmi", "x"], "tip: to remove an image: `vesselrt image rm REF`"),
        (&["pause", "x"], "tip: vessels are not paused"),
        (&["--root", "ps", "top", "x"], "tip: `vesselrt exec ID -- top`"),
        (&["snapshot", "delete", "x", "y"], "tip: `vesselrt snapshot rm ID SNAP`"),
        (&["ps"], "tip: `vesselrt ls` lists the vessels"),
        (&["ps", "-a"], "tip: `vesselrt ls` lists the vessels"),
        (&["logs", "x"], "tip: `vesselrt ps ID` lists"),
        (&["kill", "x"], "`vesselrt stop ID`"),
        (&["exec", "x"], "tip: `vesselrt exec ID -- COMMAND`"),
        (&["run", "--name", "x", "debian"], "`--id NAME`"),
    ] {
        let said = said(line);
        assert!(said.contains(expected), "{line:?}: {said}");
        assert_eq!(said.matches("tip:").count(), 1, "{line:?}: {said}");
    }
}

#[test]
fn what_nobody_types_is_left_to_clap() {
    assert!(said(&["snapshto"]).contains("a similar subcommand exists: 'snapshot'"));
    assert!(said(&["ls", "--quite"]).contains("'--quiet'"));
    assert!(!said(&["fly"]).contains("tip:"));
    // The same word elsewhere means something else.
    assert!(!said(&["volume", "images"]).contains("image ls"));
}

/// Whether these verbs are here.
fn is_here<'a>(words: impl IntoIterator<Item = &'a str>) -> bool {
    let mut at = Cli::command();
    words.into_iter().all(|word| match at.find_subcommand(word).cloned() {
        Some(next) => {
            at = next;
            true
        }
        None => false,
    })
}

#[test]
fn no_habit_stands_in_the_way_of_a_verb_and_every_tip_names_verbs_that_are_here() {
    for (after, habit, tip) in VERBS {
        assert!(is_here(after.iter().copied()), "{after:?}");
        assert!(!is_here(after.iter().copied().chain([*habit])), "{after:?} {habit}");
        assert!(tip.contains("`vesselrt "), "{tip}");
    }
    let tips = VERBS.iter().map(|(.., tip)| tip).chain(MEANT.iter().map(|(_, tip)| tip));
    // What stands between two backquotes.
    for command in tips.flat_map(|tip| tip.split('`').skip(1).step_by(2)) {
        let words = command.split(' ').skip(1);
        let verbs = words.take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase()));
        assert!(is_here(verbs), "{command}");
    }
    for (verb, _) in MEANT {
        assert!(is_here([*verb]), "{verb}");
    }
}

#[test]
fn the_help_of_a_verb_can_be_asked_for_by_a_verb() {
    let asked = |words: &[&str]| help(&Help { verb: words.iter().map(|&word| word.to_owned()).collect() });
    assert!(asked(&["snapshot", "diff"]).is_ok());
    assert!(asked(&[]).is_ok());
    let failure = asked(&["fly"]).unwrap_err();
    assert_eq!(failure.message(), "there is no verb \"fly\"");
}
