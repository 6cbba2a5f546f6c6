import java.net.InetAddress;
import java.net.UnknownHostException;

/** Resolves each argument and prints its addresses on one line. */
public class Resolve {
    public static void main(String[] names) {
        for (String name : names) {
            StringBuilder line = new StringBuilder(name);
            try {
                for (InetAddress one : InetAddress.getAllByName(name)) {
                    line.append(' ').append(one.getHostAddress());
                }
            } catch (UnknownHostException error) {
                line.append(" error");
            }
            System.out.println(line);
        }
    }
}
