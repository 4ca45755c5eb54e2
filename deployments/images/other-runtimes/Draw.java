// Draws from every generator of Java, at each line that a visitor sends.
import java.io.*;
import java.net.*;
import java.security.*;
import java.util.*;
import java.util.concurrent.ThreadLocalRandom;

public class Draw {
    static final SecureRandom kept = new SecureRandom();
    static final Random seeded = new Random();

    static String hex(SecureRandom random) {
        byte[] bytes = new byte[16];
        random.nextBytes(bytes);
        return HexFormat.of().formatHex(bytes);
    }

    static final SecureRandom drbg, sha1;

    static {
        try {
            drbg = SecureRandom.getInstance("DRBG");
            sha1 = SecureRandom.getInstance("SHA1PRNG");
        } catch (NoSuchAlgorithmException error) {
            throw new RuntimeException(error);
        }
    }

    public static void main(String[] arguments) throws Exception {
        try (var listener = new ServerSocket(Integer.parseInt(System.getenv("PORT")), 16, InetAddress.getLoopbackAddress())) {
            while (true) {
                try (var visitor = listener.accept()) {
                    if (new BufferedReader(new InputStreamReader(visitor.getInputStream())).readLine() == null) continue;
                    String answer = String.join("\n",
                        "secret SecureRandom " + hex(kept),
                        "secret new.SecureRandom " + hex(new SecureRandom()),
                        "secret UUID.randomUUID " + UUID.randomUUID(),
                        "open SecureRandom.DRBG " + hex(drbg),
                        "open SecureRandom.SHA1PRNG " + hex(sha1),
                        "open new.Random " + new Random().nextLong(),
                        "open Random " + seeded.nextLong(),
                        "open Math.random " + Math.random(),
                        "open ThreadLocalRandom " + ThreadLocalRandom.current().nextLong());
                    visitor.getOutputStream().write(answer.getBytes());
                } catch (IOException woken) {
                    continue;
                }
            }
        }
    }
}
