//! Attacks that are known, and the tests that try them here: what `docs/security.md` shows as a table.
#![forbid(unsafe_code)]

/// What happened to others.
pub(super) struct Attack {
    what: &'static str,
    /// Numbers of the CVE list and other names; none where it has none.
    known_as: &'static str,
    /// What tries it that is no single test.
    also: Option<&'static str>,
    /// Names of tests.
    tests: &'static [&'static str],
}

const fn attack(what: &'static str, known_as: &'static str, tests: &'static [&'static str]) -> Attack {
    Attack { what, known_as, also: None, tests }
}

impl Attack {
    /// Its line of the table.
    pub(super) fn row(&self) -> String {
        let tests = self.tests.iter().map(|test| format!("`{test}`"));
        let tests: Vec<String> = self.also.map(str::to_owned).into_iter().chain(tests).collect();
        let known_as = if self.known_as.is_empty() { String::new() } else { format!(" {}", self.known_as) };
        format!("| {} |{known_as} | {} |", self.what, tests.join(", "))
    }
}

/// In the order of the table.
pub(super) const ATTACKS: &[Attack] = &[
    attack(
        "overwriting the runtime through `/proc/PID/exe`",
        "CVE-2019-5736, 2016-9962",
        &[
            "the_executable_of_the_runtime_cannot_be_overwritten",
            "an_entrypoint_that_is_the_runtime_itself_harms_nothing",
        ],
    ),
    attack(
        "descriptors and directories of the host that are still open; `LISTEN_FDS`",
        "CVE-2024-21626, 2016-9962",
        &[
            "only_the_three_streams_are_open",
            "descriptors_of_the_caller_end_at_the_runtime",
            "working_directories_of_an_image_stay_inside",
        ],
    ),
    attack(
        "mount points that are links, or become links",
        "CVE-2021-30465, 2024-45310, 2019-19921, 2023-27561",
        &[
            "links_in_place_of_dev_proc_and_sys_are_refused",
            "links_in_place_of_etc_are_harmless",
            "mount_points_that_become_links_while_it_runs_are_refused",
            "symlinks_as_destinations_are_refused",
            "a_parent_that_is_a_symlink_is_refused",
        ],
    ),
    attack(
        "destinations of mounts that become links, also from a vessel that shares what they are in",
        "CVE-2021-30465, 2024-45310",
        &[
            "a_link_that_takes_the_place_of_a_parent_leads_nowhere_else",
            "a_guest_that_swaps_directories_for_links_stays_inside",
            "a_vessel_that_shares_a_volume_cannot_lead_mounts_of_another_out",
            "a_mount_that_was_moved_is_not_written_to_by_its_old_name",
        ],
    ),
    attack(
        "`/dev` as a link",
        "CVE-2026-41579, 2026-47766",
        &["links_in_place_of_dev_proc_and_sys_are_refused", "other_types_as_destinations_are_refused"],
    ),
    attack(
        "masked paths, consoles, and writes through them",
        "CVE-2025-31133, 2025-52565, 2025-52881, 2025-62161",
        &[
            "secrets_of_the_kernel_are_masked",
            "proc_and_sys_cannot_be_changed",
            "mounts_and_devices_cannot_be_made",
        ],
    ),
    attack(
        "hooks, sysctls, annotations from an image",
        "CVE-2022-0811, 2026-53488",
        &["the_specification_is_the_golden_one"],
    ),
    attack(
        "paths in an image's configuration",
        "CVE-2022-23648",
        &[
            "working_directories_of_an_image_stay_inside",
            "commands_and_environments_of_an_image_may_be_odd",
            "links_in_place_of_generated_files_are_harmless",
        ],
    ),
    attack(
        "the `User` field",
        "CVE-2016-3697, 2024-40635, 2026-46680, 2026-30892",
        &[
            "user_fields_are_never_root_by_accident",
            "users_of_an_image_that_are_no_users_are_not_root",
            "odd_specifications_are_errors_and_never_root",
        ],
    ),
    attack(
        "`/etc/passwd` and `/etc/group` as bombs and links",
        "CVE-2026-47262, 2026-61801, 2024-9676",
        &[
            "databases_of_users_can_be_bombs_and_links",
            "hostile_databases_are_refused_at_once_and_the_default_user_still_is_root",
            "a_symlinked_database_is_the_guests_own",
        ],
    ),
    attack(
        "groups of the caller that stay",
        "CVE-2014-8989, 2022-36109, 2023-25173, 2022-2989",
        &["groups_of_the_caller_are_not_inside", "with_one_id_root_still_resolves_without_its_other_groups"],
    ),
    attack(
        "inheritable and ambient capabilities",
        "CVE-2022-24769, 2022-29162, 2022-27650, 2025-27612",
        &["capabilities_and_filters_are_as_documented"],
    ),
    attack(
        "typing into the caller's terminal",
        "CVE-2017-5226, 2019-10063, 2023-28100",
        &[
            "characters_cannot_be_pushed_into_a_terminal",
            "terminal_input_cannot_be_faked",
            "a_terminal_is_a_terminal",
        ],
    ),
    attack(
        "kernel keyrings",
        "",
        &["no_keys_of_the_host_are_seen", "what_commands_have_no_business_with_is_shut"],
    ),
    attack(
        "control groups: `release_agent`, writable hierarchies",
        "CVE-2022-0492, 2023-25809",
        &["control_groups_are_neither_mounted_nor_mountable"],
    ),
    attack(
        "user namespaces in the vessel, and what they open of the kernel",
        "CVE-2022-0185, 2024-1086, 2023-0386, 2021-3493, 2023-2640",
        &["what_commands_have_no_business_with_is_shut", "threads_may_be_made_and_namespaces_not"],
    ),
    attack(
        "page cache by AF_ALG, io_uring, eBPF, userfaultfd, perf",
        "CVE-2026-31431, 2022-0847",
        &["what_commands_have_no_business_with_is_shut", "sockets_by_family", "dangerous_calls_are_refused"],
    ),
    attack(
        "system calls of other architectures",
        "CVE-2015-2830",
        &["calls_of_other_machines_kill", "foreign_calls_kill"],
    ),
    attack("files by handle", "CVE-2014-3519", &["what_commands_have_no_business_with_is_shut"]),
    attack(
        "fork bombs, stopped and stubborn processes, output without end",
        "CVE-2022-31030, 2022-23471, 2025-64329",
        &[
            "a_fork_bomb_dies_with_its_command",
            "a_process_that_stopped_itself_dies_with_the_rest",
            "a_process_that_ignores_signals_dies_too",
            "a_reader_that_never_reads_costs_nothing",
            "after_everything_that_goes_wrong_the_host_is_as_before",
        ],
    ),
    attack(
        "environments and processes of other vessels",
        "CVE-2021-21334",
        &["two_vessels_see_nothing_of_each_other", "nothing_of_the_host_s_environment_is_inside"],
    ),
    attack(
        "modes of stores and sockets",
        "CVE-2021-41091, 2024-25621, 2020-15257",
        &[
            "a_store_is_closed_to_others_whatever_the_umask",
            "a_store_that_everybody_could_write_is_refused",
            "case_70_nobody_else_reaches_what_is_being_unpacked",
        ],
    ),
    attack(
        "copies in and out through links that move",
        "CVE-2018-15664, 2019-14271, 2026-41567, 2026-103916",
        &[
            "a_racing_swapper_never_leads_out",
            "nothing_is_written_made_moved_or_removed_through_a_link",
            "a_swapper_never_leads_extract_out",
        ],
    ),
    Attack {
        what: "archives: traversal, links, two parsers that differ",
        known_as: "CVE-2014-9356, 2021-32760, 2021-29136, 2018-20990, 2025-62518, 2026-17106",
        also: Some("the corpus [below](#layers-and-archives)"),
        tests: &["the_tar_crate_and_we_see_the_same_entries"],
    },
    attack(
        "archives: bombs",
        "CVE-2026-95838",
        &["bombs_are_refused_by_their_ratio", "every_limit_holds_at_it_and_not_beyond"],
    ),
    attack(
        "digests, sizes and media types that lie",
        "CVE-2021-41190, 2024-3727, 2026-95839, 2020-15157",
        &["confusion_is_refused", "malformed_digests_are_refused", "wrong_bytes_of_a_layer"],
    ),
    attack("indexes of indexes", "GO-2026-6597", &["indexes_do_not_grow_without_bound", "bombs_of_indexes"]),
    attack(
        "redirects, realms, credentials",
        "CVE-2020-15157, 2026-48978, 2026-65388",
        &[
            "blobs_may_be_elsewhere_and_credentials_stay_here",
            "places_that_realms_do_not_lead_to",
            "places_that_redirects_do_not_lead_to",
        ],
    ),
    attack("ids that are paths", "GHSA-x7pf", &["ids_are_checked", "references_are_safe_paths"]),
    attack(
        "snapshots that were tampered with",
        "CVE-2026-64824, 2026-53489",
        &["a_snapshot_with_one_bit_changed_is_refused", "damaged_manifests_are_corrupt"],
    ),
    attack("programs from `PATH`", "CWE-427", &["helpers_are_not_taken_from_the_path"]),
];
