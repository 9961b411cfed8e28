package output

import (
	"encoding/json"

	"github.com/chainfire/cfseed/internal/ident"
)

// UnmarshalJSON reads what MarshalJSON gives.
func (id *ID) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	v, err := ident.ParseID(s)
	*id = ID(v)
	return err
}
