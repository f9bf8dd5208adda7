package audit

import (
	"testing"

	"github.com/stockstream/stockstream/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }
