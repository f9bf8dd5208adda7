package main

import (
	"runtime/debug"

	"github.com/spf13/cobra"
)

func newServe(config *Config) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the service, or some of its roles, on a Redis and a Postgres that are there",
		Long: "Run the service. Redis and Postgres may come later, and may go away: it waits, says so in /readyz and in\n" +
			"the log, and goes on by itself. Without the role api only /livez and /readyz are served.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := config.logger(cmd.ErrOrStderr())
			a, err := newApp(cmd.Context(), config, log)
			if err != nil {
				return err
			}
			log.Info("serving", "url", "http://"+a.addr(), "roles", config.Roles)
			return a.run(cmd.Context())
		},
	}
}

// version is set by the linker for a release.
var version = ""

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Say which build this is",
		Args:  cobra.NoArgs,
		// It needs no settings, and must work where they are wrong.
		PersistentPreRun: func(*cobra.Command, []string) {},
		Run: func(cmd *cobra.Command, _ []string) {
			info, _ := debug.ReadBuildInfo()
			name := version
			if name == "" && info != nil {
				name = info.Main.Version
			}
			goVersion := ""
			if info != nil {
				goVersion = info.GoVersion
			}
			cmd.Println("stockstream", name, goVersion)
		},
	}
}
