package main

import "github.com/spf13/cobra"

// newCommandGroup returns a command that only has commands below it. Alone it shows them. With a word that is none of them it
// fails, since a script that mistypes one must not take its help for success.
func newCommandGroup(use, short string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
}
