package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"github.com/chainfire/cfseed/internal/fault"
	"github.com/chainfire/cfseed/internal/state/auth"
	"github.com/chainfire/cfseed/internal/state/envelope"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// now is the revision of users and roles in these tests, where it does not matter.
const now = 7

// issue makes a token of a user that is known from the entry at index on; share
// hears of it through the change, as members do.
func issue(t *testing.T, p Provider, user string, index uint64) (token string, change *auth.Change) {
	t.Helper()
	token, err := p.Assign(envelope.Client{Name: user, Revision: 3}, func(sum []byte) (uint64, error) {
		change = &auth.Change{User: user, Sum: sum}
		return index, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return token, change
}

func ofUser(t *testing.T, p Provider, token string) string {
	t.Helper()
	c, ok := p.Client(t.Context(), token)
	if !ok {
		return ""
	}
	if c.Revision != now {
		t.Errorf("known at %d", c.Revision)
	}
	return c.Name
}

func TestSimpleTokensEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSimple(0)
		token, change := issue(t, s, "ada", 1)
		s.Apply(1, now, change)
		for range 3 { // each use is the beginning of another five minutes
			<-time.After(DefaultTTL - time.Second)
			if got := ofUser(t, s, token); got != "ada" {
				t.Fatalf("used now and then: of %q", got)
			}
		}
		<-time.After(DefaultTTL + time.Second)
		if got := ofUser(t, s, token); got != "" {
			t.Errorf("unused for its time: of %q", got)
		}
	})
}

// What has ended does not stay in memory.
func TestSimpleTokensAreSwept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSimple(time.Minute)
		for i := range uint64(100) {
			_, change := issue(t, s, "ada", i+1)
			s.Apply(i+1, now, change)
		}
		<-time.After(2 * time.Minute)
		_, change := issue(t, s, "ada", 101)
		if s.Apply(101, now, change); len(s.known) != 1 {
			t.Errorf("%d tokens are kept", len(s.known))
		}
	})
}

func TestSimpleTokensAreVoid(t *testing.T) {
	s := NewSimple(time.Hour)
	ada, a := issue(t, s, "ada", 1)
	bob, b := issue(t, s, "bob", 2)
	s.Apply(2, now, a, b)
	if ada == bob || ofUser(t, s, ada) != "ada" || ofUser(t, s, bob) != "bob" {
		t.Fatal("tokens are not known")
	}
	s.Apply(3, now, &auth.Change{User: "ada"}) // her password has changed
	if ofUser(t, s, ada) != "" || ofUser(t, s, bob) != "bob" {
		t.Error("the tokens of one user are not void alone")
	}
	s.Apply(4, now, &auth.Change{})
	if ofUser(t, s, bob) != "" {
		t.Error("everybody's tokens are not void")
	}
	s.Apply(5, now, b)
	if s.Reset(6, now); ofUser(t, s, bob) != "" {
		t.Error("a state that was replaced left tokens")
	}
	for _, strange := range []string{"", ".", "x", "x.1", strings.TrimSuffix(bob, "2") + "x", bob + ".2"} {
		if got := ofUser(t, s, strange); got != "" {
			t.Errorf("%q is of %q", strange, got)
		}
	}
}

// A token is of the revision up to which its provider has heard, whatever the state
// shows by then.
func TestSimpleTokensAreOfTheirRevision(t *testing.T) {
	s := NewSimple(time.Hour)
	want := func(token string, revision uint64) {
		t.Helper()
		if c, ok := s.Client(t.Context(), token); !ok || c != (envelope.Client{Name: "ada", Revision: revision}) {
			t.Errorf("%+v, %t; want revision %d", c, ok, revision)
		}
	}
	s.Reset(3, 5)
	token, change := issue(t, s, "ada", 4)
	s.Apply(4, 5, change)
	want(token, 5)
	s.Apply(5, 6)
	want(token, 6)
	s.Reset(9, 8)
	token, change = issue(t, s, "ada", 10)
	s.Apply(10, 8, change)
	want(token, 8)
}

// A member that is behind waits until it has applied what made the token known, but
// not for ever: the number may be anybody's.
func TestSimpleTokensOfTheFuture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSimple(time.Hour)
		token, change := issue(t, s, "ada", 9)
		got := make(chan string)
		go func() { got <- ofUser(t, s, token) }()
		synctest.Wait()
		s.Apply(8, now)
		synctest.Wait()
		select {
		case user := <-got:
			t.Fatalf("did not wait: of %q", user)
		default:
		}
		s.Apply(9, now, change)
		if user := <-got; user != "ada" {
			t.Errorf("of %q", user)
		}
		began := time.Now()
		if user := ofUser(t, s, "x.99999"); user != "" || time.Since(began) != lagPatience {
			t.Errorf("of %q after %s", user, time.Since(began))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, ok := s.Client(ctx, "x.99999"); ok || time.Since(began) != lagPatience {
			t.Error("waited for nobody")
		}
	})
}

// The log has a sum of the token alone.
func TestSimpleTokenIsNotShared(t *testing.T) {
	token, change := issue(t, NewSimple(0), "ada", 1)
	secret, _, _ := strings.Cut(token, ".")
	if sum := sha256.Sum256([]byte(secret)); string(change.Sum) != string(sum[:]) || len(secret) < 22 {
		t.Errorf("token %q, shared %x", token, change.Sum)
	}
	broken := errors.New("broken")
	if _, err := NewSimple(0).Assign(envelope.Client{}, func([]byte) (uint64, error) { return 0, broken }); !errors.Is(err, broken) {
		t.Errorf("a token that nobody knows: %v", err)
	}
}

// keyFiles writes a private key and its public one and gives their names.
func keyFiles(t *testing.T, private, public any) (priv, pub string) {
	t.Helper()
	write := func(name, kind string, der []byte, err error) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), name)
		if err == nil {
			err = os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	priv = write("priv", "PRIVATE KEY", der, err)
	der, err = x509.MarshalPKIXPublicKey(public)
	return priv, write("pub", "PUBLIC KEY", der, err)
}

func mustNew(t *testing.T, spec string) Provider {
	t.Helper()
	p, err := New(spec, 0)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestJWT(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edPub, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for method, key := range map[string][2]any{"RS256": {rsaKey, rsaKey.Public()}, "PS512": {rsaKey, rsaKey.Public()},
		"ES256": {ecKey, ecKey.Public()}, "EdDSA": {edKey, edPub}} {
		t.Run(method, func(t *testing.T) {
			priv, pub := keyFiles(t, key[0], key[1])
			whole := mustNew(t, "jwt,sign-method="+method+",priv-key="+priv+",pub-key="+pub+",ttl=1m")
			reader := mustNew(t, "jwt,sign-method="+method+",pub-key="+pub)
			signer := mustNew(t, "jwt,sign-method="+method+",priv-key="+priv)
			token, _ := issue(t, whole, "ada", 0)
			for name, p := range map[string]Provider{"whole": whole, "reader": reader, "signer": signer} {
				if c, ok := p.Client(t.Context(), token); !ok || c != (envelope.Client{Name: "ada", Revision: 3}) {
					t.Errorf("%s: %+v, %v", name, c, ok)
				}
				if _, ok := p.Client(t.Context(), token[:len(token)-4]+"AAAA"); ok {
					t.Errorf("%s takes another signature", name)
				}
			}
			if _, err := reader.Assign(envelope.Client{Name: "ada"}, nil); !fault.Is(err, fault.Refused) {
				t.Errorf("a reader signs: %v", err)
			}
		})
	}
}

func TestJWTRefuses(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("a secret of some length, 32 bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := mustNew(t, "jwt,sign-method=HS256,priv-key="+secret)
	sign := func(method jwt.SigningMethod, claims jwt.MapClaims) string {
		t.Helper()
		key := any([]byte("a secret of some length, 32 bytes"))
		if method == jwt.SigningMethodNone {
			key = jwt.UnsafeAllowNoneSignatureType
		}
		token, err := jwt.NewWithClaims(method, claims).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	good := func() jwt.MapClaims {
		return jwt.MapClaims{"username": "ada", "revision": 3, "exp": time.Now().Add(time.Minute).Unix()}
	}
	if c, ok := p.Client(t.Context(), sign(jwt.SigningMethodHS256, good())); !ok || c.Name != "ada" || c.Revision != 3 {
		t.Errorf("a good one: %+v, %v", c, ok)
	}
	without := func(claim string, instead any) jwt.MapClaims {
		claims := good()
		if delete(claims, claim); instead != nil {
			claims[claim] = instead
		}
		return claims
	}
	for name, token := range map[string]string{
		"nothing":             "",
		"no token":            "a.b.c",
		"unsigned":            sign(jwt.SigningMethodNone, good()),
		"another method":      sign(jwt.SigningMethodHS512, good()),
		"one that has ended":  sign(jwt.SigningMethodHS256, without("exp", time.Now().Add(-time.Minute).Unix())),
		"no user":             sign(jwt.SigningMethodHS256, without("username", nil)),
		"a user of numbers":   sign(jwt.SigningMethodHS256, without("username", 7)),
		"no revision":         sign(jwt.SigningMethodHS256, without("revision", nil)),
		"a negative revision": sign(jwt.SigningMethodHS256, without("revision", -1)),
		"a huge revision":     sign(jwt.SigningMethodHS256, without("revision", 1e30)),
		"a long name":         sign(jwt.SigningMethodHS256, without("username", strings.Repeat("n", envelope.MaxName+1))),
	} {
		if c, ok := p.Client(t.Context(), token); ok {
			t.Errorf("%s is of %+v", name, c)
		}
	}
}

func TestJWTEnds(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		p := mustNew(t, "jwt,sign-method=HS256,priv-key="+secret+",ttl=1m")
		token, _ := issue(t, p, "ada", 0)
		<-time.After(58 * time.Second)
		if _, ok := p.Client(t.Context(), token); !ok {
			t.Error("ended before its time")
		}
		<-time.After(3 * time.Second) // a use does not prolong it
		if _, ok := p.Client(t.Context(), token); ok {
			t.Error("lives on")
		}
	})
}

func TestSpecs(t *testing.T) {
	edPub, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	otherPub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	priv, pub := keyFiles(t, edKey, edPub)
	_, other := keyFiles(t, edKey, otherPub)
	for _, spec := range []string{"", "other", "simple,ttl=1m", "jwt", "jwt,sign-method=EdDSA", "jwt,sign-method=XX256,priv-key=" + priv,
		"jwt,sign-method=none", "jwt,sign-method=HS256", "jwt,sign-method=HS256,pub-key=" + pub, "jwt,sign-method", "jwt,sign-method=EdDSA,sign-method=EdDSA,priv-key=" + priv,
		"jwt,sign-method=EdDSA,priv-key=" + priv + ",ttl=soon", "jwt,sign-method=EdDSA,priv-key=" + priv + ",ttl=-1s", "jwt,sign-method=EdDSA,priv-key=" + priv + ",tll=1m",
		"jwt,sign-method=EdDSA,priv-key=" + priv + ".absent", "jwt,sign-method=RS256,priv-key=" + priv, "jwt,sign-method=ES256,pub-key=" + pub,
		"jwt,sign-method=EdDSA,priv-key=" + pub, "jwt,sign-method=EdDSA,priv-key=" + priv + ",pub-key=" + other} {
		if p, err := New(spec, 0); !fault.Is(err, fault.Usage) {
			t.Errorf("%q: %v, %v", spec, p, err)
		}
	}
}
