package token

import (
	"context"
	"crypto"
	"math"
	"os"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/auth"
	"github.com/chainfire/cfseed/internal/state/envelope"
)

// JWT are JSON Web Tokens with the claims username, revision and exp, as etcd's.
type JWT struct {
	method jwt.SigningMethod
	sign   any // nil: tokens are only read here
	verify any
	ttl    time.Duration
}

var _ Provider = (*JWT)(nil)

// NewJWT makes a provider of etcd's options: sign-method (a name of RFC 7518:
// RS256, PS256, ES256, EdDSA, HS256 and so on), pub-key and priv-key (files; PEM, of
// HS... the secret itself in priv-key), ttl. With a public key alone tokens are only
// read: somebody else makes them.
func NewJWT(options map[string]string) (*JWT, error) {
	t := &JWT{ttl: DefaultTTL}
	var public, private []byte
	for name, value := range options {
		var err error
		switch name {
		case "sign-method":
			t.method = jwt.GetSigningMethod(value)
		case "pub-key":
			public, err = os.ReadFile(value)
		case "priv-key":
			private, err = os.ReadFile(value)
		case "ttl":
			if t.ttl, err = time.ParseDuration(value); err == nil && t.ttl <= 0 {
				return nil, fault.Newf(fault.Usage, flag, "ttl=%s: must be more than nothing", value)
			}
		default:
			return nil, fault.Newf(fault.Usage, flag, "jwt has no option %q", name).
				WithHint("its options are sign-method, pub-key, priv-key and ttl")
		}
		if err != nil {
			return nil, fault.New(fault.Usage, flag+" "+name, err)
		}
	}
	if err := t.keys(public, private); err != nil {
		return nil, fault.New(fault.Usage, flag, err)
	}
	return t, nil
}

// keys reads the keys of the method and holds them against each other.
func (t *JWT) keys(public, private []byte) error {
	var err error
	read := func(pem []byte, parse func([]byte) (any, error)) (key any) {
		if err == nil && len(pem) > 0 {
			key, err = parse(pem)
		}
		return key
	}
	var pub any
	switch t.method.(type) {
	case *jwt.SigningMethodRSA, *jwt.SigningMethodRSAPSS:
		t.sign = read(private, func(b []byte) (any, error) { return jwt.ParseRSAPrivateKeyFromPEM(b) })
		pub = read(public, func(b []byte) (any, error) { return jwt.ParseRSAPublicKeyFromPEM(b) })
	case *jwt.SigningMethodECDSA:
		t.sign = read(private, func(b []byte) (any, error) { return jwt.ParseECPrivateKeyFromPEM(b) })
		pub = read(public, func(b []byte) (any, error) { return jwt.ParseECPublicKeyFromPEM(b) })
	case *jwt.SigningMethodEd25519:
		t.sign = read(private, func(b []byte) (any, error) { return jwt.ParseEdPrivateKeyFromPEM(b) })
		pub = read(public, func(b []byte) (any, error) { return jwt.ParseEdPublicKeyFromPEM(b) })
	case *jwt.SigningMethodHMAC:
		if len(private) == 0 {
			return fault.Newf(fault.Usage, "", "%s needs the secret in priv-key", t.method.Alg())
		}
		t.sign, t.verify = private, private
		return nil
	default:
		return fault.Newf(fault.Usage, "", "jwt needs sign-method=METHOD, one of RFC 7518's").WithHint("for example RS256, ES256, EdDSA")
	}
	if err != nil {
		return err
	}
	if t.verify = pub; t.sign == nil {
		if pub == nil {
			return fault.Newf(fault.Usage, "", "%s needs priv-key to make tokens, or pub-key to read them", t.method.Alg())
		}
		return nil
	}
	own := t.sign.(crypto.Signer).Public() // as all private keys of these methods
	if same, ok := pub.(interface{ Equal(crypto.PublicKey) bool }); ok && !same.Equal(own) {
		return fault.Newf(fault.Usage, "", "pub-key is not that of priv-key")
	}
	t.verify = own
	return nil
}

// Assign implements Provider. Nothing needs to be shared: who has the key knows.
func (t *JWT) Assign(c envelope.Client, _ func([]byte) (uint64, error)) (string, error) {
	if t.sign == nil {
		return "", fault.Newf(fault.Refused, "authenticate", "this member only reads tokens").
			WithHint("get one from whoever has the private key")
	}
	token, err := jwt.NewWithClaims(t.method, jwt.MapClaims{"username": c.Name, "revision": c.Revision,
		"exp": time.Now().Add(t.ttl).Unix()}).SignedString(t.sign)
	if err != nil {
		return "", fault.New(fault.Internal, "sign token", err)
	}
	return token, nil
}

// Client implements Provider. The revision is that of the token, which is thus
// void for keys after the next change of users and roles.
func (t *JWT) Client(_ context.Context, token string) (envelope.Client, bool) {
	claims := jwt.MapClaims{}
	// Of the method configured only: a token must not choose how it is believed.
	_, err := jwt.ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return t.verify, nil },
		jwt.WithValidMethods([]string{t.method.Alg()}))
	name, hasName := claims["username"].(string)
	revision, hasRevision := claims["revision"].(float64)
	if err != nil || !hasName || !hasRevision || revision < 0 || revision >= math.MaxUint64 || len(name) > envelope.MaxName {
		return envelope.Client{}, false
	}
	return envelope.Client{Name: name, Revision: uint64(revision)}, true
}

// Apply implements Provider.
func (*JWT) Apply(uint64, uint64, ...*auth.Change) {}

// Reset implements Provider.
func (*JWT) Reset(uint64, uint64) {}
