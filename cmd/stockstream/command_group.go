package main

import "github.com/spf13/cobra"

// newCommandGroup returns a command that only groups subcommands. Without arguments it
// prints its help. With an unknown subcommand it fails, so that a script with a typing
// error does not exit with success.
func newCommandGroup(use, short string) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
}
