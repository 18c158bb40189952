package edgekit.phone;

import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/** The command line of the tests: golden vectors, and a phone that joins a gateway and trains nothing. */
public final class Try {
    private Try() {}

    public static void main(String[] arguments) throws Exception {
        List<String> given = new ArrayList<>(List.of(arguments));
        if (given.size() == 2 && given.get(0).equals("golden")) {
            golden(Path.of(given.get(1)));
        } else if (given.size() >= 2 && given.get(0).equals("join")) {
            join(given.get(1), option(given, "--trust"), Integer.parseInt(option(given, "--rounds", "3")));
        } else {
            System.err.println("usage: Try golden FILE | Try join LINK [--trust PEM] [--rounds N]");
            System.exit(2);
        }
    }

    private static void golden(Path file) throws Exception {
        Map<?, ?> cases = (Map<?, ?>) Json.read(Files.readString(file));
        int wrong = 0;
        List<?> good = (List<?>) cases.get("good");
        List<?> bad = (List<?>) cases.get("bad");
        for (Object found : good) {
            Map<?, ?> wanted = (Map<?, ?>) found;
            byte[] content = bytes((String) wanted.get("hex"));
            Frames.Frame frame = Frames.unpack(content);
            boolean same = frame.type.equals(wanted.get("type")) && frame.facts.equals(wanted.get("facts"));
            List<?> arrays = (List<?>) wanted.get("arrays");
            same &= arrays.size() == frame.arrays.size();
            for (Object described : arrays) {
                Map<?, ?> array = (Map<?, ?>) described;
                Frames.Array read = frame.arrays.get(array.get("name"));
                same &= read != null && read.dtype.equals(array.get("dtype"));
                if (same && read.dtype.equals("float32")) {
                    float[] values = read.floats();
                    for (int i = 0; i < values.length; i++) {
                        same &= values[i] == ((Number) ((List<?>) array.get("values")).get(i)).floatValue();
                    }
                }
            }
            same &= java.util.Arrays.equals(Frames.pack(frame), content);
            if (!same) {
                System.out.println(wanted.get("name") + ": read or written otherwise");
                wrong++;
            }
        }
        for (Object found : bad) {
            Map<?, ?> refused = (Map<?, ?>) found;
            try {
                Frames.unpack(bytes((String) refused.get("hex")));
                System.out.println(refused.get("name") + ": was taken");
                wrong++;
            } catch (Frames.FrameException expected) {
                continue;
            }
        }
        System.out.println(good.size() + " " + bad.size() + " " + wrong);
        System.exit(wrong == 0 ? 0 : 1);
    }

    private static void join(String link, String trust, int most) throws Exception {
        Map<String, Object> identity = new LinkedHashMap<>();
        PhoneLine.Keeper keeper = new PhoneLine.Keeper() {
            @Override
            public Map<String, Object> identity() {
                return identity;
            }

            @Override
            public void keep(Map<String, Object> given) {
                identity.putAll(given);
            }
        };
        PhoneLine[] line = new PhoneLine[1];
        Rounds rounds = new Rounds() {
            private int done;

            @Override
            public long examples() {
                return 16;
            }

            @Override
            public void task(String name, Map<String, Object> task, Map<String, Object> training, byte[] graph) {
                System.out.println("task " + task.get("run") + " " + (graph == null ? 0 : graph.length) + " bytes");
            }

            @Override
            public float[] train(long round, Map<String, Object> settings, float[] weights) throws Exception {
                System.out.println("round " + round + " " + weights.length + " weights");
                if (done++ == most) line[0].leave();
                return weights;
            }

            @Override
            public String deliver(Map<String, Object> facts, byte[] model) {
                System.out.println("model version " + facts.get("version") + " " + model.length + " bytes");
                return null;
            }
        };
        line[0] = new PhoneLine(link, "JVM " + System.getProperty("java.version"), new Sockets(trusting(trust)), keeper, rounds);
        System.out.println(line[0].run());
    }

    private static SSLContext trusting(String pem) throws Exception {
        if (pem.isEmpty()) return null;
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (InputStream file = Files.newInputStream(Path.of(pem))) {
            store.setCertificateEntry("gateway", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        TrustManagerFactory managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        managers.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, managers.getTrustManagers(), null);
        return context;
    }

    private static byte[] bytes(String hex) {
        byte[] found = new byte[hex.length() / 2];
        for (int i = 0; i < found.length; i++) found[i] = (byte) Integer.parseInt(hex.substring(2 * i, 2 * i + 2), 16);
        return found;
    }

    private static String option(List<String> given, String name, String... otherwise) {
        int place = given.indexOf(name);
        return place >= 0 && place + 1 < given.size() ? given.get(place + 1) : otherwise.length > 0 ? otherwise[0] : "";
    }
}
