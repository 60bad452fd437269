"""An attack on the commands: kills, damage, full disks, hostile files, fuzzed arguments; see README.md here."""
